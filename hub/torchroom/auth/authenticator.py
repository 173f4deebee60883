"""The class that JupyterHub asks who somebody is: at login, and again while it lasts.

Two classes of oauthenticator, with what Torchroom promises on top:

- Groups, courses and admins are what courses.toml makes of the provider's groups, at
  every login and every refresh. Who is in nothing is refused.
- A name belongs to one account of the provider (`accounts`).
- Who somebody was counts no longer than it should (`refresh`).

JupyterHub refreshes at a user's next request once `auth_refresh_age` is over. A running
server makes one every five minutes (its activity), with its own token; its owner can
keep it from that, so `look_after` asks about those who made none.
"""

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.github import GitHubOAuthenticator
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import PeriodicCallback
from traitlets import Any as AnyTrait
from traitlets import Bool, Integer, Unicode, default

from torchroom.auth import claims, refusals, rights, tokens
from torchroom.auth.accounts import FILE, Accounts
from torchroom.auth.answers import Expired, Kept, Unreachable, auth_state
from torchroom.auth.asking import AskingAuthenticator
from torchroom.auth.courses import Courses
from torchroom.auth.handlers import OTHER_ACCOUNT, CallbackHandler, LoginHandler
from torchroom.auth.pace import PACE, LoginPace
from torchroom.auth.refresh import Refresh
from torchroom.auth.states import States
from torchroom.strict import CheckedApi


class TorchroomOAuthenticator(CheckedApi, AskingAuthenticator):
    """Who is in a course gets in, as long as they are in it."""

    names_stay = True
    login_handler = LoginHandler
    callback_handler = CallbackHandler

    data_dir = Unicode(".", config=True, help="Where accounts.sqlite is kept.")
    courses_file = Unicode("", config=True, help="courses.toml.")
    name_claim = Unicode("", config=True, help="The claim with the name.")
    offline_s = Integer(
        12 * 3600, config=True, help="How long an answer counts, at most."
    )
    lapsed_s = Integer(
        3600, config=True, help="How long it gives power when the token is over."
    )
    trusts_email = Bool(
        False, config=True, help="Addresses are verified though it does not say so."
    )
    other_account_prompt = Unicode(
        "login", config=True, help="Asks for another account."
    )

    accounts = AnyTrait()
    courses = AnyTrait()
    pace = AnyTrait()
    refresh = AnyTrait()
    states = AnyTrait()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._looking: PeriodicCallback | None = None

    @default("accounts")
    def _default_accounts(self) -> Accounts:
        return Accounts(Path(self.data_dir) / FILE)

    @default("courses")
    def _default_courses(self) -> Courses:
        return Courses(Path(self.courses_file) if self.courses_file else None)

    @default("pace")
    def _default_pace(self) -> LoginPace:
        return PACE

    @default("states")
    def _default_states(self) -> States:
        return States()

    @default("refresh")
    def _default_refresh(self) -> Refresh:
        return Refresh(
            self,
            self.courses,
            self.states,
            offline_s=self.offline_s,
            lapsed_s=self.lapsed_s,
        )

    @default("reconcile_auth_state_hook")
    def _default_reconcile(self) -> Any:
        return self.states.reconciled

    def get_handlers(self, app: Any) -> list[Any]:
        """Return the handlers of pages and API; from now on `look_after` people.

        JupyterHub asks for them once, when it starts, and tells an authenticator at no
        other time who its users are.
        """
        if self.auth_refresh_age:
            self._looking = PeriodicCallback(
                lambda: self.look_after(app.users.values()),
                self.auth_refresh_age * 1000,
            )
            self._looking.start()
        return list(super().get_handlers(app))

    def count_login(self, request: HTTPServerRequest) -> None:
        """Count a beginning of a login.

        Raises:
            HTTPError: 429; there were too many.
        """
        self.pace.check_login(request)

    # ---------------------------------------------------------------- login

    async def authenticate(
        self, handler: CallbackHandler, data: Any = None, **_kwargs: Any
    ) -> dict[str, Any]:
        """Return who came back from the provider.

        Raises:
            HTTPError: Nobody who can be trusted, or the provider is down; see
                `refusals`. Or a password was sent: JupyterHub's own form is open.
        """
        if not hasattr(handler, "nonce"):
            url = self.login_url(handler.hub.base_url)
            raise refusals.no_passwords(self.login_service, url)
        again, title = handler.again, self.login_service
        other = f"{again}?{OTHER_ACCOUNT}=1"
        try:
            params = self.build_access_tokens_request_params(handler, data)
            told = await self.get_token_info(handler, params)
            found = await self.found(told, nonce=handler.nonce)
            bound = self.accounts.name_of(self.issuer, found.subject)
            name = bound or claims.name_of(
                found.claims, self.name_claim, trusts_email=self.trusts_email
            )
        except Unreachable as error:
            self.log.error("A login failed: %s %s.", title, error)
            raise refusals.unreachable(title, again) from error
        except Expired as error:
            self.log.warning("A login failed: %s %s.", title, error)
            raise refusals.not_finished(title, again) from error
        except tokens.TokenError as error:
            self.log.error("A login failed: the id_token of %s: %s.", title, error)
            raise refusals.untrusted(title, again) from error
        except claims.ClaimError as error:
            self.log.warning("A login failed: %s", error)
            raise refusals.bad_claim(str(error), other) from error
        standing = self.courses.membership.standing(name, found.groups or ())
        state = auth_state(found, self.clock())
        return rights.model_of(handler.db, name, standing) | {"auth_state": state}

    async def check_allowed(
        self, username: str, auth_model: Mapping[str, Any] | None
    ) -> bool:
        """Let members in; say to all others why not.

        Raises:
            HTTPError: They are in nothing, or the name is another account's.
        """
        state = (auth_model or {}).get("auth_state")
        kept = Kept.of(state)
        if kept is None:
            return False
        other = f"{self.login_url('/hub/')}?{OTHER_ACCOUNT}=1"
        standing = self.courses.membership.standing(username, kept.groups)
        if not standing.is_member:
            self.log.warning("%s logged in and is in no course.", username)
            raise refusals.not_a_member(
                username,
                self.login_service,
                said_groups=kept.said_groups,
                url=other,
            )
        if not self.accounts.bind(username, self.issuer, kept.subject):
            self.log.warning("%s logged in with another account.", username)
            raise refusals.taken(username, self.login_service, other)
        self.refresh.log_in(username, state)
        return True

    def delete_user(self, user: Any) -> None:
        """Let the next account have the name of a user whom an admin deleted."""
        super().delete_user(user)
        self.states.forget(user.name)
        self.accounts.release(user.name)

    # ---------------------------------------------------------------- refresh

    async def refresh_user(
        self, user: Any, handler: Any = None, **_kwargs: Any
    ) -> dict[str, Any] | bool:
        """Return what a user is now; False if they get no further without a login.

        Raises:
            HTTPError: An admin deleted them meanwhile; or somebody else does something
                for them, and they are no member.
        """
        if handler is not None and not hasattr(handler, "_token_authenticated"):
            # JupyterHub 6.1.1 reads it of every handler once we say False, and sets it
            # on those of its API only (handlers/base.py, refresh_auth).
            handler._token_authenticated = False
        outcome = await self.refresh.outcome(user)
        if outcome.is_deleted:
            raise refusals.deleted(user.name)
        is_others = getattr(handler, "_jupyterhub_user", None) is not user
        if outcome.is_removed and is_others:
            raise refusals.removed(user.name)
        # A page leads to the login now, which says why it ends there.
        if outcome.model is None or (outcome.needs_login and _is_own(handler, user)):
            return False
        return dict(outcome.model)

    async def look_after(self, users: Iterable[Any]) -> None:
        """Ask again about those with a running server who made no request for long."""
        for user in [user for user in users if user.active]:
            refreshed_at = user._auth_refreshed or -math.inf
            if time.monotonic() - refreshed_at < self.auth_refresh_age:
                continue
            try:
                outcome = await self.refresh.outcome(user)
                if outcome.model is not None:
                    rights.set_rights(user, outcome.model)
            except Exception:  # of one user; the others' turn comes all the same
                self.log.exception("%s could not be looked after.", user.name)
                continue
            if outcome.model is not None and not outcome.needs_login:
                user._auth_refreshed = time.monotonic()

    async def pre_spawn_start(self, user: Any, _spawner: Any) -> None:
        """Start no server for somebody whose session at the provider is over.

        Here, for JupyterHub asks `refresh_user` once in a request, and takes what it
        says for an answer to everything.

        Raises:
            HTTPError: It is over.
        """
        if not await self.refresh.gives_power(user):
            url = self.login_url("/hub/")
            raise refusals.session_over(user.name, self.login_service, url)


def _is_own(handler: Any, user: Any) -> bool:
    """Whether a request is the user's own, by a cookie: it can lead to a new login."""
    return (
        handler is not None
        and getattr(handler, "_jupyterhub_user", None) is user
        and not getattr(handler, "_token_authenticated", False)
    )


class OidcAuthenticator(TorchroomOAuthenticator, GenericOAuthenticator):
    """For OpenID providers: any, GitLab, Google, Microsoft, CILogon."""


class GithubAuthenticator(TorchroomOAuthenticator, GitHubOAuthenticator):
    """For GitHub: groups are its teams, "org:team" and "org"."""

    async def _groups(
        self, known: Mapping[str, Any], told: Mapping[str, Any]
    ) -> frozenset[str] | None:
        state = self.build_auth_state_dict(dict(told), dict(known))
        model = {"name": "", "admin": None, "auth_state": state}
        try:
            await self.update_auth_model(model)
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            raise Unreachable("answered with something unexpected") from error
        return claims.teams_of(state.get("teams"))

"""The class that JupyterHub asks who somebody is: at login, and again while it lasts.

Two classes of oauthenticator, with what Torchroom promises on top:

- Groups, courses and admins are what courses.toml makes of the provider's groups, at
  every login and every refresh. Who is in nothing is refused.
- A name belongs to one account of the provider (`accounts`).
- Refresh tells four things apart. "Not a member any more" takes everything away at
  once. "The provider is down" lets the last answer count for `offline_s`, and then
  nobody gets further without a new login. "The provider refused" (see `Refused`) ends
  the power over others and new servers at once. "The access token is over, and there
  is no other" does so `lapsed_s` after the last answer. Until `offline_s` what runs
  goes on and reports with its token.

JupyterHub refreshes at a user's next request once `auth_refresh_age` is over. A running
server makes one every five minutes (its activity), with its own token; its owner can
keep it from that, so `look_after` asks about those who made none.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.github import GitHubOAuthenticator
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import PeriodicCallback
from traitlets import Any as AnyTrait
from traitlets import Bool, Integer, Unicode, default

from torchroom import roles
from torchroom.auth import claims, refusals, rights, tokens
from torchroom.auth.accounts import FILE, Accounts
from torchroom.auth.answers import (
    KEPT,
    Expired,
    Found,
    Kept,
    Refused,
    Unreachable,
    Word,
    newest,
    reconciled,
)
from torchroom.auth.asking import AskingAuthenticator
from torchroom.auth.courses import Courses
from torchroom.auth.handlers import OTHER_ACCOUNT, CallbackHandler, LoginHandler
from torchroom.auth.pace import PACE, LoginPace
from torchroom.strict import CheckedApi

PENDING_AGAIN_S, PENDING_MAX_S = 1, 1800


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a refresh came to.

    Attributes:
        model: What the user is now; None: nothing that can be.
        is_removed: They are no member any more, and all was taken away.
        needs_login: A new login would help.
    """

    model: Mapping[str, Any] | None = None
    is_removed: bool = False
    needs_login: bool = False


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

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._saved: dict[str, dict[str, Any]] = {}  # auth states by name
        self._looking: PeriodicCallback | None = None
        self._stopping: set[asyncio.Task[None]] = set()

    @default("accounts")
    def _default_accounts(self) -> Accounts:
        return Accounts(Path(self.data_dir) / FILE)

    @default("courses")
    def _default_courses(self) -> Courses:
        return Courses(Path(self.courses_file) if self.courses_file else None)

    @default("pace")
    def _default_pace(self) -> LoginPace:
        return PACE

    @default("reconcile_auth_state_hook")
    def _default_reconcile(self) -> Any:
        return reconciled

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
        self._saved.pop(name, None)
        return self._model(handler.db, name, found)

    async def check_allowed(
        self, username: str, auth_model: Mapping[str, Any] | None
    ) -> bool:
        """Let members in; say to all others why not.

        Raises:
            HTTPError: They are in nothing, or the name is another account's.
        """
        kept = Kept.of((auth_model or {}).get("auth_state"))
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
        return True

    def delete_user(self, user: Any) -> None:
        """Let the next account have the name of a user whom an admin deleted."""
        super().delete_user(user)
        self._saved.pop(user.name, None)
        self.accounts.release(user.name)

    # ---------------------------------------------------------------- refresh

    async def refresh_user(
        self, user: Any, handler: Any = None, **_kwargs: Any
    ) -> dict[str, Any] | bool:
        """Return what a user is now; False if they get no further without a login.

        Requests that come at once share one answer: a refresh token can often be used
        once only, and a second use ends the whole session at the provider.

        Raises:
            HTTPError: Somebody else does something for them, and they are no member.
        """
        if handler is not None and not hasattr(handler, "_token_authenticated"):
            # JupyterHub 6.1.1 reads it of every handler once we say False, and sets it
            # on those of its API only (handlers/base.py, refresh_auth).
            handler._token_authenticated = False
        outcome = await self._shared_outcome(user)
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
                outcome = await self._shared_outcome(user)
                if outcome.model is not None:
                    rights.set_rights(user, outcome.model)
            except Exception:  # of one user; the others' turn comes all the same
                self.log.exception("%s could not be looked after.", user.name)
                continue
            if outcome.model is not None and not outcome.needs_login:
                user._auth_refreshed = time.monotonic()

    async def _shared_outcome(self, user: Any) -> Outcome:
        """Ask about somebody, or wait for who does already."""
        task = self._running.get(user.name)
        if task is None:
            task = asyncio.ensure_future(self._outcome(user))
            self._running[user.name] = task
            task.add_done_callback(lambda _: self._running.pop(user.name, None))
        return await asyncio.shield(task)

    async def _state_of(self, user: Any) -> Any:
        """Return what is kept of somebody.

        JupyterHub saves what `refresh_user` returned at the end of each request that
        waited for it, and a slow one may put an older answer over a newer one. Its
        refresh token is used up: asking with it again ends the whole session.
        """
        stored = await user.get_auth_state()
        return deepcopy(newest(self._saved.get(user.name), stored))

    async def _save(self, user: Any, state: dict[str, Any]) -> None:
        self._saved[user.name] = state
        await user.save_auth_state(state)

    async def _outcome(self, user: Any) -> Outcome:
        state = await self._state_of(user)
        kept = Kept.of(state)
        if kept is None:
            return Outcome(needs_login=True)
        try:
            before = state.get("token_response")
            found = await self.found_fresh(state, kept)
        except Unreachable as error:
            why, word = str(error), kept.word
        except (Refused, tokens.TokenError, claims.ClaimError) as error:
            why, word = str(error), Word.REFUSED
        except Expired as error:
            why, word = str(error), kept.word or Word.LAPSED
        else:
            model = self._model(user.db, user.name, found)
            if not self._is_member(user.name, found.groups):
                await self._remove(user, stops=found.groups is not None)
                return Outcome(is_removed=True)
            await self._save(user, model["auth_state"])
            return Outcome(model)
        # courses.toml may have changed meanwhile
        if not self._is_member(user.name, kept.groups):
            await self._remove(user, stops=True)
            return Outcome(is_removed=True)
        if word != kept.word or state.get("token_response") != before:
            kept = replace(kept, word=word)
            state[KEPT]["word"] = str(word)
            await self._save(user, state)
        age_s = self.clock() - kept.asked_at
        self.log.warning(
            "What %s is could not be asked for %.0f s: %s.", user.name, age_s, why
        )
        counts = self._counts(kept)
        model = self._rights(user.db, user.name, kept.groups, has_power=counts)
        if not counts:
            # now, and not only where JupyterHub takes the answer: not if it is False
            rights.set_rights(user, model)
        if not 0 <= age_s <= self.offline_s:
            return Outcome(needs_login=True)
        return Outcome(model, needs_login=word is not Word.ANSWERED)

    def _counts(self, kept: Kept) -> bool:
        """Whether the last answer still gives power over others, and new servers."""
        if kept.word is Word.LAPSED:
            return bool(0 <= self.clock() - kept.asked_at <= self.lapsed_s)
        return kept.word is not Word.REFUSED

    async def pre_spawn_start(self, user: Any, _spawner: Any) -> None:
        """Start no server for somebody whose session at the provider is over.

        Here, for JupyterHub asks `refresh_user` once in a request, and takes what it
        says for an answer to everything.

        Raises:
            HTTPError: It is over.
        """
        kept = Kept.of(await self._state_of(user))
        if kept is None or not self._counts(kept):
            url = self.login_url("/hub/")
            raise refusals.session_over(user.name, self.login_service, url)

    async def _remove(self, user: Any, *, stops: bool) -> None:
        """Take away everything: cookies, tokens, groups, admin, and running servers.

        Args:
            user: Whom.
            stops: Whether their servers are stopped. Not if the provider just sent no
                groups: that may be its admin's mistake, and would end every training.
        """
        rights.end_logins(user)
        rights.set_rights(user, {"admin": False, "groups": []})
        await user.save_auth_state(None)
        self.log.warning("%s is in no course any more and lost access.", user.name)
        if stops:
            names = [name for name, s in user.spawners.items() if s.active]
            for name in names:
                stopping = asyncio.ensure_future(self._stop(user, name))
                self._stopping.add(stopping)
                stopping.add_done_callback(self._stopping.discard)

    async def _stop(self, user: Any, name: str) -> None:
        spawner = user.spawners[name]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PENDING_MAX_S):
                # it starts just now, or stops already; JupyterHub tells nobody when
                while spawner.pending:  # noqa: ASYNC110
                    await asyncio.sleep(PENDING_AGAIN_S)
        if not spawner.active:
            return
        # as JupyterHub does it at a request: nobody else starts or stops it meanwhile
        spawner._stop_pending, spawner._stop_future = True, asyncio.current_task()
        try:
            await user.settings["proxy"].delete_user(user, name)
            await user.stop(name)
        except Exception:  # any spawner's; the steward tries again
            self.log.exception("The server %s of %s did not stop.", name, user.name)
        finally:
            spawner._stop_pending, spawner._stop_future = False, None

    # ---------------------------------------------------------------- what somebody is

    def _is_member(self, name: str, groups: frozenset[str] | None) -> bool:
        return bool(self.courses.membership.standing(name, groups or ()).is_member)

    def _rights(
        self, db: Any, name: str, groups: frozenset[str], *, has_power: bool = True
    ) -> dict[str, Any]:
        standing = self.courses.membership.standing(name, groups)
        if not has_power:
            standing = replace(standing, taught=(), is_admin=False)
        groups_here = roles.groups_of(standing)
        rights.make_roles(db, groups_here)
        return {"name": name, "admin": standing.is_admin, "groups": groups_here}

    def _model(self, db: Any, name: str, found: Found) -> dict[str, Any]:
        groups = found.groups or frozenset()
        kept = {
            "subject": found.subject,
            "groups": sorted(groups),
            "said_groups": found.groups is not None,
            "only_in_token": found.only_in_token,
            "asked_at": self.clock(),
            "token_claims": sorted(found.token_claims),
        }
        state = {"token_response": dict(found.tokens), KEPT: kept}
        return self._rights(db, name, groups) | {"auth_state": state}


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

"""The login by password, for this machine only: one for everybody, one for admins.

Whoever has the password can be anybody, so it opens nothing that is worth being
somebody else for: admins and instructors of courses.toml need the admin's password. So
does who becomes one: a session that was there before gets none of it.
"""

import secrets
from pathlib import Path
from typing import Any

from jupyterhub.authenticators.shared import SharedPasswordAuthenticator
from traitlets import Any as AnyTrait
from traitlets import Unicode, default

from torchroom import roles
from torchroom.auth import rights
from torchroom.auth.addresses import host_of, is_loopback
from torchroom.auth.courses import Courses
from torchroom.auth.pace import PACE, LoginPace
from torchroom.auth.refusals import refusal
from torchroom.strict import CheckedApi

NAME_MAX = 255


class LoopbackAuthenticator(CheckedApi, SharedPasswordAuthenticator):
    """JupyterHub's shared passwords, at addresses of this machine only."""

    courses_file = Unicode("", config=True, help="courses.toml; names in it count.")
    courses = AnyTrait()
    pace = AnyTrait()

    @default("courses")
    def _default_courses(self) -> Courses:
        return Courses(Path(self.courses_file) if self.courses_file else None)

    @default("pace")
    def _default_pace(self) -> LoginPace:
        return PACE

    async def authenticate(self, handler: Any, data: Any) -> dict[str, Any] | None:
        """Return who logs in, None if the password is another.

        Raises:
            HTTPError: 403, the address is not this machine's: a page elsewhere may have
                led here by a name of its own, or the port was published; or a program
                in a user's server asks, which can send any Host. 400, a field is
                missing. 429, too many wrong passwords.
        """
        asked = handler.request
        if self.pace.is_from_server(asked) or not is_loopback(host_of(asked.host)):
            raise refusal(
                403,
                "This machine only",
                "Passwords are taken on this machine only, at an address like "
                "127.0.0.1. To let others in, set up an identity provider "
                "(docs/login.md).",
            )
        typed, password = data.get("username"), data.get("password")
        if not isinstance(typed, str) or not isinstance(password, str):
            # JupyterHub's own page would look for the name in what was sent
            raise refusal(
                400, "Bad login", "A login needs one username and one password."
            )
        name = self.normalize_username(typed.strip())
        if not name or len(name) > NAME_MAX or not name.isprintable():
            return None
        self.pace.check_password(handler.request, name)
        model = self._model(name)
        needed = self.user_password
        if rights.is_power(model):
            needed = self.admin_password
        if not needed or not secrets.compare_digest(
            password.encode("utf-8", "replace"), needed.encode()
        ):
            self.pace.password_failed(handler.request, name)
            return None
        user = handler.find_user(name)
        if user is not None and _gains_power(user, model):
            rights.end_logins(user)  # with everybody's password, by anybody
        rights.make_roles(handler.db, model["groups"])
        return model

    async def refresh_user(
        self, user: Any, _handler: Any = None, **_kwargs: Any
    ) -> dict[str, Any] | bool:
        """Return what a user is now, as courses.toml says.

        False if they are more than they were: that takes a login.
        """
        if not self.manage_groups:
            return True
        model = self._model(user.name)
        if _gains_power(user, model):
            return False
        rights.make_roles(user.db, model["groups"])
        return model

    def _model(self, name: str) -> dict[str, Any]:
        standing = self.courses.membership.standing(name)
        is_admin = standing.is_admin or name in self.admin_users
        return {"name": name, "admin": is_admin, "groups": roles.groups_of(standing)}


def _gains_power(user: Any, model: rights.Rights) -> bool:
    return rights.is_power(model) and not rights.is_power(rights.rights_of(user))

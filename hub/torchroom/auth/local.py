"""The login by password, for this machine only: one for everybody, one for admins.

Whoever has the password can be anybody, so it opens nothing that is worth being
somebody else for: admins and instructors of courses.toml need the admin's password.
"""

import secrets
from pathlib import Path
from typing import Any

from jupyterhub.authenticators.shared import SharedPasswordAuthenticator
from traitlets import Any as AnyTrait
from traitlets import Unicode, default

from torchroom import roles
from torchroom.auth.addresses import host_of, is_loopback
from torchroom.auth.courses import Courses
from torchroom.auth.pace import PACE, LoginPace
from torchroom.auth.refusals import refusal
from torchroom.membership import Standing
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
        standing = self._standing(name)
        is_admin = standing.is_admin or name in self.admin_users
        needed = self.user_password
        if is_admin or standing.taught:
            needed = self.admin_password
        if not needed or not secrets.compare_digest(
            password.encode("utf-8", "replace"), needed.encode()
        ):
            self.pace.password_failed(handler.request, name)
            return None
        return {"name": name, "admin": is_admin, "groups": roles.groups_of(standing)}

    async def refresh_user(
        self, user: Any, _handler: Any = None, **_kwargs: Any
    ) -> dict[str, Any] | bool:
        """Return what a user is now, as courses.toml says."""
        if not self.manage_groups:
            return True
        standing = self._standing(user.name)
        return {
            "name": user.name,
            "admin": standing.is_admin or user.name in self.admin_users,
            "groups": roles.groups_of(standing),
        }

    def _standing(self, name: str) -> Standing:
        found: Standing = self.courses.membership.standing(name)
        return found

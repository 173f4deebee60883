"""JupyterHub's REST API and pages behind a check of what they are sent; see bodies.py.

JupyterHub asks its authenticator for handlers first and takes the first that fits, so
ours stand before the same handlers without the check.
"""

import logging
from typing import Any
from urllib.parse import urlsplit

from jupyterhub import apihandlers
from jupyterhub import handlers as pages
from jupyterhub.apihandlers.auth import OAuthAuthorizeHandler, OAuthTokenHandler
from jupyterhub.apihandlers.groups import GroupPropertiesAPIHandler
from jupyterhub.apihandlers.users import UserAPIHandler, UserServerAPIHandler
from jupyterhub.handlers.login import LoginHandler
from jupyterhub.handlers.static import CacheControlStaticFilesHandler
from tornado.web import HTTPError

from torchroom import bodies

FORMS = (OAuthAuthorizeHandler, OAuthTokenHandler)
OF_A_STOPPED_SERVER = frozenset({"name", "display_name", "user_options"})
NO_ADDRESS = "The address to go on to is none."
OF_A_USER = frozenset({"name", "admin", "auth_state"})


class CheckedApi:
    """Mix it into an authenticator, before its other bases.

    Attributes:
        names_stay: A user's name belongs to an account elsewhere; nobody changes it.
    """

    names_stay = False

    def get_handlers(self, app: Any) -> list[Any]:
        """Return the authenticator's own handlers, and JupyterHub's checked."""
        app.log.addFilter(without_traceback)
        own: list[Any] = super().get_handlers(app)  # type: ignore[misc]
        return [*(_with(_CheckedPage, *each) for each in own), *handlers()]


def without_traceback(record: logging.LogRecord) -> bool:
    """Log a refusal as a sentence: JupyterHub adds a traceback to some."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HTTPError):
        record.msg, record.args = f"{record.getMessage()}: {error}", ()
        record.exc_info = None
    return True


class CheckedFiles(CacheControlStaticFilesHandler):  # type: ignore[misc]
    """JupyterHub's own files."""

    def parse_url_path(self, url_path: str) -> str:
        """Return the file's path.

        Raises:
            HTTPError: 404, no file can have this name.
        """
        if "\0" in url_path:
            raise HTTPError(404)
        return str(super().parse_url_path(url_path))


SETTINGS = {"static_handler_class": CheckedFiles}
"""For `JupyterHub.tornado_settings`."""


class _Checked:
    """A handler that looks at a request before it is handled."""

    async def prepare(self) -> None:
        """Check what was sent, then let JupyterHub find out who asks.

        In this order: its refusals read what was sent, too.

        Raises:
            HTTPError: 400, with a sentence.
        """
        try:
            self.check()
        except ValueError as error:
            raise HTTPError(400, str(error)) from None
        await super().prepare()  # type: ignore[misc]

    def check(self) -> None:
        """Raise ValueError if it cannot be handled."""
        handler: Any = self
        bodies.check_names(handler.path_args)
        bodies.check_query(handler.request.query_arguments)


class _CheckedApi(_Checked):
    def check(self) -> None:
        super().check()
        handler: Any = self
        body, method = handler.request.body, handler.request.method
        if isinstance(self, FORMS):
            bodies.check_text(body)
            _check_oauth(handler)
        elif isinstance(self, GroupPropertiesAPIHandler):
            bodies.check_body(body, keys_are_free=True)
        elif isinstance(self, UserServerAPIHandler) and method == "PATCH":
            bodies.check_body(body, only=OF_A_STOPPED_SERVER)
        elif isinstance(self, UserAPIHandler):
            bodies.check_body(body, only=OF_A_USER)
            if method == "PATCH" and handler.authenticator.names_stay:
                bodies.check_name_stays(body, handler.path_args[0])
        else:
            bodies.check_body(body)


class _CheckedPage(_Checked):
    def check(self) -> None:
        super().check()
        handler: Any = self
        form = handler.request.body_arguments
        bodies.check_query(form)
        for name in handler.get_arguments("next"):
            _check_address(name)
        if isinstance(self, LoginHandler) and handler.request.method == "POST":
            _check_login(form)

    def decode_argument(self, value: bytes, name: str | None = None) -> str:  # noqa: ARG002
        """Return an argument as text; the page of a refusal shows what was sent."""
        return value.decode(errors="replace")


def handlers() -> list[tuple[Any, ...]]:
    """Return each of JupyterHub's handlers with the check."""
    return [
        *(_with(_CheckedPage, *each) for each in pages.default_handlers),
        *(_with(_CheckedApi, *each) for each in apihandlers.default_handlers),
    ]


def _with(check: type, path: str, kind: type, *more: Any) -> tuple[Any, ...]:
    return path, type(f"Checked{kind.__name__}", (check, kind), {}), *more


def _check_address(text: str) -> None:
    try:
        urlsplit(text)
    except ValueError as error:
        raise ValueError(NO_ADDRESS) from error
    if (len(text) > 1 and not text.strip("/")) or not text.isprintable():
        raise ValueError(NO_ADDRESS)


def _check_oauth(handler: Any) -> None:
    """Check an address of the hub's own OAuth, whose library raises at some."""
    if isinstance(handler, OAuthTokenHandler) and handler.request.query:
        raise ValueError("A token is asked for by a form, with no ? in the address.")
    if "user" in handler.request.query_arguments:
        # it would take the place of whoever is logged in
        raise ValueError("Who asks is said by the login, not by the address.")


def _check_login(form: dict[str, Any]) -> None:
    if not {"username", "password"} <= form.keys():
        raise ValueError("Type a name and a password.")

"""A user's server as small as can be: one page behind JupyterHub's own OAuth.

Started by the hub instead of jupyterhub-singleuser. It remembers what the hub said for
two seconds, not for five minutes as the real one.
"""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.services.auth import (
    HubOAuth,
    HubOAuthCallbackHandler,
    HubOAuthenticated,
)
from tornado import httpserver, web

AUTH = HubOAuth(cache_max_age=2)


class Page(HubOAuthenticated, web.RequestHandler):  # type: ignore[misc]
    """The page."""

    @property
    def hub_auth(self) -> Any:
        """Who asks the hub."""
        return AUTH

    @web.authenticated
    def get(self) -> None:
        """Say who reads it."""
        user = self.get_current_user()
        self.write(f"the server of {os.environ['JUPYTERHUB_USER']} for {user['name']}")


class Callback(HubOAuthCallbackHandler):  # type: ignore[misc]
    """Where the hub sends a browser back to."""

    @property
    def hub_auth(self) -> Any:
        """Who asks the hub."""
        return AUTH


async def main() -> None:
    """Serve until the process ends, from when no file `hold` is in the home."""
    while Path("hold").exists():  # noqa: ASYNC110, ASYNC240 - nobody else waits here
        await asyncio.sleep(0.1)
    prefix = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
    where = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
    paths = [(f"{prefix}oauth_callback", Callback), (f"{prefix}.*", Page)]
    made = httpserver.HTTPServer(
        web.Application(paths, cookie_secret=os.urandom(32), debug=False)
    )
    made.listen(where.port or 0, where.hostname or "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())

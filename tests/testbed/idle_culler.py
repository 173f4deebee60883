"""The real jupyterhub-idle-culler, asked about servers that a small hub describes."""

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from unittest import mock

import jupyterhub_idle_culler as culler  # type: ignore[import-untyped]
from tornado import httpserver, netutil, web

log = logging.getLogger("idle-culler")
log.propagate = False


class Hub:
    """Answers as JupyterHub does, as far as the culler asks."""

    def __init__(self, users: list[dict[str, Any]]) -> None:
        self.users = users
        self.stopped: set[tuple[str, str]] = set()

    def app(self) -> web.Application:
        """The three things that it asks."""
        hub = self

        class Root(web.RequestHandler):
            def get(self) -> None:
                self.write({"version": "6.1.1"})

        class Users(web.RequestHandler):
            def get(self) -> None:
                listing = {"items": hub.users, "_pagination": {"next": None}}
                self.write(json.dumps(listing))

        class Stop(web.RequestHandler):
            def delete(self, user: str, server: str | None = None) -> None:
                hub.stopped.add((user, server or ""))
                self.set_status(204)

        return web.Application(
            [
                (r"/hub/api/", Root),
                (r"/hub/api/users", Users),
                (r"/hub/api/users/([^/]+)/server", Stop),
                (r"/hub/api/users/([^/]+)/servers/([^/]+)", Stop),
            ]
        )


async def culled(
    users: list[dict[str, Any]], now: datetime, options: Mapping[str, Any]
) -> set[tuple[str, str]]:
    """Return which (user, server) it stops at a moment.

    Args:
        users: As `GET /users` lists them.
        now: What its clock says.
        options: Of its `cull_idle`.
    """
    hub = Hub(users)
    (socket,) = netutil.bind_sockets(0, "127.0.0.1")
    server = httpserver.HTTPServer(hub.app())
    server.add_sockets([socket])
    port = socket.getsockname()[1]
    try:
        with mock.patch.object(culler, "utcnow", return_value=now):
            await culler.cull_idle(
                url=f"http://127.0.0.1:{port}/hub/api",
                api_token="none",
                logger=log,
                **options,
            )
    finally:
        server.stop()
        await server.close_all_connections()
    return hub.stopped

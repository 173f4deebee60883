"""Servers of users that are a page: JupyterHub lets nobody in without the right scope.

The page is served by a thread of the hub's process. Who may open it is decided by
`jupyterhub.services.auth`, as in a real single-user server.
"""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

from gpuspawner.errors import Refusal
from gpuspawner.spawner import GPUDockerSpawner
from jupyterhub.services.auth import HubAuth, HubAuthenticated
from tornado import httpserver, web
from tornado.testing import bind_unused_port


class PageSpawner(GPUDockerSpawner):
    """The plugin's spawner without an engine."""

    _loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> tuple[str, int]:
        """Serve the page; leaves beside the hub where, and the server's token.

        What was chosen is checked as always, before anything is done.
        """
        try:
            await self._chosen()
        except Refusal as error:
            raise await self._undone(error) from error
        socket, port = bind_unused_port()
        user, server = self.user.name, self.name
        auth = HubAuth(
            api_url=self.hub.api_url,
            api_token=self.api_token,
            cache_max_age=0,
            access_scopes={
                f"access:servers!server={user}/{server}",
                f"access:servers!user={user}",
            },
        )
        path = self.server.base_url

        class Page(HubAuthenticated, web.RequestHandler):  # type: ignore[misc]
            @property
            def hub_auth(self) -> Any:
                return auth

            @web.authenticated
            def get(self) -> None:
                self.write("a notebook")

        ready = threading.Event()

        async def serve() -> None:
            self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
            made = httpserver.HTTPServer(web.Application([(f"{path}.*", Page)]))
            made.add_socket(socket)
            ready.set()
            await self._over.wait()
            made.stop()

        threading.Thread(target=asyncio.run, args=[serve()], daemon=True).start()
        ready.wait(10)
        found = {"port": port, "path": path, "token": self.api_token}
        await asyncio.to_thread(
            Path(f"server-of-{user}.json").write_text, json.dumps(found)
        )
        return "127.0.0.1", port

    async def poll(self) -> int | None:
        """Return None while it is served."""
        return 0 if self._loop is None else None

    async def stop(self, now: bool = False) -> None:  # noqa: ARG002 - JupyterHub's
        """Serve it no more."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._over.set)

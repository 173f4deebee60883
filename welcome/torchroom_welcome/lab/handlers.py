"""The addresses under /torchroom of a Jupyter server: authenticated like all of its.

What they need is imported when the first request comes: not while the server boots.
"""

from __future__ import annotations

import json

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

TYPE_CHECKING = False  # typing is not imported at run time: it costs milliseconds
if TYPE_CHECKING:
    from torchroom_welcome.lab.desk import Answer, Desk

DESK = "torchroom_desk"


def add(application: web.Application) -> None:
    """Serve the addresses."""
    base = url_path_join(application.settings["base_url"], "torchroom")
    application.add_handlers(
        ".*$",
        [(f"{base}/notice", NoticeHandler), (f"{base}/extension", ExtensionHandler)],
    )


class _Handler(APIHandler):
    _track_activity = False  # a page that asks by itself is no activity of its user

    def desk(self) -> Desk:
        """The one desk of this server."""
        if DESK not in self.settings:
            from torchroom_welcome.lab.desk import Desk  # noqa: PLC0415 - see above

            self.settings[DESK] = Desk()
        found: Desk = self.settings[DESK]
        return found

    def say(self, answer: Answer) -> None:
        """Answer."""
        self.set_status(answer.status)
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(answer.body))


class NoticeHandler(_Handler):
    """What is to happen to this server."""

    @web.authenticated
    async def get(self) -> None:
        """See Desk.notice."""
        self.say(await self.desk().notice())


class ExtensionHandler(_Handler):
    """More time for this server."""

    @web.authenticated
    async def post(self) -> None:
        """See Desk.extend."""
        try:
            sent = json.loads(self.request.body)
            lease, number = sent["lease"], sent["extension"]
        except (ValueError, TypeError, KeyError, RecursionError):
            lease = number = None
        self.say(await self.desk().extend(lease, number))

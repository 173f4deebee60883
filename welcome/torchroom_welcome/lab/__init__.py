"""Shows the hub's warnings in JupyterLab, with a countdown and a button for more time.

Two halves, and neither needs a build: an extension of Jupyter's server, which asks the
hub (`desk`, `handlers`), and one of JupyterLab (`share/labextensions`), which asks this
server and shows. Where there is nothing to ask, both say nothing.

This file is imported at every boot: it imports next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing is not imported at run time: it costs milliseconds
if TYPE_CHECKING:
    from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "torchroom_welcome.lab"}]


def _load_jupyter_server_extension(server: Any) -> None:
    """Add the handlers. Whatever fails, the server starts."""
    try:
        from torchroom_welcome.lab.handlers import add  # noqa: PLC0415 - see above

        add(server.web_app)
    except Exception as error:  # noqa: BLE001 - a warning less is no reason not to boot
        server.log.warning("no warnings in JupyterLab: %r", error)

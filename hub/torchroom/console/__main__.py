"""Runs the console: ``python -m torchroom.console``, as a service of the hub.

It ends at SIGTERM or SIGINT: requests and the step of housekeeping that is being done
are finished, then the connections are closed.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import uvicorn

from torchroom.console import settings
from torchroom.console.app import create
from torchroom.console.connections import PromptProtocol
from torchroom.console.extending import Extending
from torchroom.console.guards import Console
from torchroom.console.housekeeping import Housekeeping
from torchroom.console.hub import Hub
from torchroom.console.page import HubPages
from torchroom.console.parent import end_with_parent
from torchroom.ledger.errors import LedgerError, Unavailable
from torchroom.ledger.service import Ledger, open_ledger
from torchroom.settings import SettingError

log = logging.getLogger("torchroom.console")

DATABASE_WITHIN_S = 120
TRY_EVERY_S = 2
CONNECTIONS_MAX = 200
HEADERS_MAX_BYTES = 32 * 1024
IDLE_S = 10
ENDS_WITHIN_S = 15


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    end_with_parent()
    logging.basicConfig(
        level=logging.INFO, format="[%(levelname)s %(asctime)s %(name)s] %(message)s"
    )
    for chatty in ("httpx", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        here = settings.read(os.environ)
        ledger = _opened(lambda: _open(here))
    except (SettingError, LedgerError) as error:
        log.critical("The console cannot start: %s", error)
        return 1
    console = Console(
        ledger=ledger,
        hub=Hub(here.hub_api_url, here.hub_token),
        extending=Extending(ledger.fees, here.data_dir),
        now=lambda: datetime.now(UTC),
    )
    pages = HubPages(
        url=here.hub_pages_url,
        client_id=here.client_id,
        prefix=here.prefix,
        callback=here.callback_url,
    )
    app = create(console, pages=pages, housekeeping=Housekeeping(console))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=here.host,
            port=here.port,
            http=PromptProtocol,  # h11 is the one that limits headers
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # nothing here depends on who the proxy says it is
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            h11_max_incomplete_event_size=HEADERS_MAX_BYTES,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=ENDS_WITHIN_S,
        )
    )
    log.info("console listens on %s:%s%s", here.host, here.port, here.prefix)
    with contextlib.suppress(KeyboardInterrupt):  # JupyterHub tries SIGINT first
        server.run()
    return 0 if server.started else 1


def _open(here: settings.ConsoleSettings) -> Ledger:
    found = here.ledger
    return open_ledger(found.url, policy=found.policy, topup_secret=found.topup_secret)


def _opened(open_it: Callable[[], Ledger]) -> Ledger:
    """Return the ledger, waiting for a database that starts together with this.

    Raises:
        Unavailable: It did not answer for DATABASE_WITHIN_S.
    """
    deadline = time.monotonic() + DATABASE_WITHIN_S
    while True:
        try:
            return open_it()
        except Unavailable as error:
            if time.monotonic() > deadline:
                raise
            log.warning("The ledger does not answer yet: %s", error)
        time.sleep(TRY_EVERY_S)


if __name__ == "__main__":
    sys.exit(main())

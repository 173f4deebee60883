"""The ledger as the hub has it: ready before the hub starts, behind every spawner."""

import asyncio
import gc
import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from gpuspawner.spawner import GPUDockerSpawner
from traitlets import default

from torchroom.console.scopes import SERVICE
from torchroom.ledger import metrics
from torchroom.ledger.database import Database, migrate
from torchroom.ledger.errors import Unavailable
from torchroom.ledger.meter import LedgerMeter
from torchroom.ledger.policy import Policy
from torchroom.ledger.prices import EXAMPLE, Prices
from torchroom.ledger.service import Ledger
from torchroom.settings import LedgerSettings

API = f"/services/{SERVICE}/api/v1"
"""Where the hub's proxy has the REST API."""
log = logging.getLogger(__name__)

CONSOLE = [sys.executable, "-m", "torchroom.console"]
"""Command of the hub's service that serves the REST API; see `settings.of_console`."""
TRY_EVERY_S = 10
COLLECT_EVERY = 100_000
"""Values made between two looks for garbage; Python's own default is 700."""


def open_ledger(here: LedgerSettings, *, policy: Policy | None = None) -> Ledger:
    """Return the hub's ledger: with the tables of this version, and with prices.

    Blocks. A database that does not answer is tried again in the background: the hub
    serves those who are working meanwhile, and starts nothing that costs tokens.

    Args:
        here: Where it is.
        policy: Instead of that of `here`.

    Raises:
        BadInput: The address or the price list cannot be used.
    """
    listing = (here.prices_file or EXAMPLE).read_text(encoding="utf-8")
    ease_collection()
    try:
        _prepare(here.url, listing)
    except Unavailable as error:
        log.error("the ledger is not ready, trying again: %s", error)
        work = threading.Thread(
            target=_keep_trying, args=[here.url, listing], daemon=True
        )
        work.start()
    return Ledger(Database.open(here.url), policy or here.policy)


def ease_collection() -> None:
    """Let Python look for garbage less often, and never among what is there now.

    Settling thousands of leases makes hundreds of thousands of small values, and each
    look at all that a hub holds would find none: a third of a pass went into it.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)


def _keep_trying(url: str, listing: str) -> None:
    while True:
        time.sleep(TRY_EVERY_S)
        try:
            _prepare(url, listing)
        except Unavailable:
            continue
        except Exception:  # a bug here must not end the thread without a word
            log.exception("the ledger is not ready, trying again")
            continue
        log.warning("the ledger is ready")
        return


def _prepare(url: str, listing: str) -> None:
    migrate(url)
    # JupyterHub's own loop runs while it reads its configuration.
    with ThreadPoolExecutor(1) as pool:
        n_loaded = pool.submit(asyncio.run, _load(url, listing)).result()
    if n_loaded:
        log.info("prices loaded n=%d", n_loaded)


async def _load(url: str, listing: str) -> int:
    db = Database.open(url)
    try:
        prices = Prices(db)
        return await prices.load(listing, at=datetime.now(UTC), actor="torchroom")
    finally:
        await db.close()


def spawner_class(ledger: Ledger, url: str) -> type[GPUDockerSpawner]:
    """Return the spawner whose servers are paid for with tokens of this ledger.

    Args:
        ledger: The hub's.
        url: The REST API, as servers reach it.
    """
    figures = metrics.Figures(started_at=datetime.now(UTC))
    metrics.register(figures)
    meter = LedgerMeter(ledger, url=url, figures=figures)

    class MeteredSpawner(GPUDockerSpawner):
        """A GPUDockerSpawner on the ledger."""

        @default("meter")
        def _the_ledger(self) -> LedgerMeter:
            return meter

    return MeteredSpawner

"""Runs the steward: ``python -m torchroom.steward``, as a service of the hub.

It listens nowhere. It ends at SIGTERM, after what it is doing or soon; being killed at
any moment loses nothing.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from torchroom.console.parent import end_with_parent
from torchroom.settings import SettingError
from torchroom.steward import settings
from torchroom.steward.file import StoreError
from torchroom.steward.hooks import Outbox, Receiver, reached
from torchroom.steward.hub import Hub
from torchroom.steward.loop import Steward
from torchroom.steward.mail import Mail
from torchroom.steward.store import Store
from torchroom.steward.webhook import Webhook

log = logging.getLogger("torchroom.steward")

LOCK = "steward.lock"
LOCKED_WITHIN_S = 30
TRY_EVERY_S = 0.5


def main() -> int:
    """Run until SIGTERM; return the exit status."""
    end_with_parent()
    logging.basicConfig(
        level=logging.INFO, format="[%(levelname)s %(asctime)s %(name)s] %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        here = settings.read(os.environ)
        with _alone(here.data_dir):
            store = Store.open(here.data_dir)
            try:
                asyncio.run(_serve(here, store))
            finally:
                store.close()
    except (SettingError, StoreError) as error:
        log.critical("The steward cannot start: %s", error)
        return 1
    return 0


async def _serve(here: settings.StewardSettings, store: Store) -> None:
    receivers: dict[str, Receiver] = {}
    if here.mail:
        receivers["mail"] = Mail(here.mail)
    if here.webhook:
        receivers["webhook"] = Webhook(here.webhook)
    outbox = Outbox(store, receivers, _now)
    hub = Hub(here.hub_api_url, here.hub_token)
    steward = Steward(
        hub,
        store,
        here.policy,
        hooks=partial(reached, receivers),
        now=_now,
        on_news=outbox.wake,
    )
    for asked in (signal.SIGINT, signal.SIGTERM):  # JupyterHub tries the first first
        asyncio.get_running_loop().add_signal_handler(asked, steward.end)
    log.info(
        "steward begins hooks=%s%s",
        ",".join(receivers) or "none",
        " dry run: nothing is stopped" if here.policy.is_dry_run else "",
    )
    sending = asyncio.create_task(outbox.run())
    try:
        await steward.run()
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        await hub.close()


def _now() -> datetime:
    return datetime.now(UTC)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock that keeps a second steward from doing everything twice.

    Raises:
        StoreError: Another one has it, or the folder cannot be written to.
    """
    try:
        handle = (folder / LOCK).open("wb")
    except OSError as error:
        raise StoreError(f"{folder} cannot be written to: {error.strerror}.") from error
    with handle:
        deadline = time.monotonic() + LOCKED_WITHIN_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"Another steward is running: it holds {folder / LOCK}."
                    ) from error
            time.sleep(TRY_EVERY_S)
        yield


if __name__ == "__main__":
    sys.exit(main())

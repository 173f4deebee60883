"""Runs the gate: ``python -m torchroom.gate``, beside the hub.

It ends at SIGTERM. While it does not run, the hub knows nothing of the engine: no
server is started or stopped, those that run go on.
"""

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress

from torchroom.gate import settings
from torchroom.gate.relay import Gate
from torchroom.gate.settings import GateSettings
from torchroom.settings import SettingError

log = logging.getLogger("torchroom.gate")

MODE = 0o660  # the hub is in the socket's group


async def serve(here: GateSettings) -> None:
    """Serve until SIGTERM."""
    gate = Gate(here.engine, here.policy)
    with suppress(FileNotFoundError):
        here.socket.unlink()
    server = await gate.listen(str(here.socket))
    here.socket.chmod(MODE)
    log.info("The gate stands at %s before %s", here.socket, here.engine)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, asked.set)
    await asked.wait()
    server.close()
    await gate.end()
    here.socket.unlink(missing_ok=True)


def main() -> int:
    """Serve until SIGTERM; return the exit status."""
    logging.basicConfig(
        level=logging.INFO, format="[%(levelname)s %(asctime)s %(name)s] %(message)s"
    )
    try:
        asyncio.run(serve(settings.read(os.environ)))
    except (SettingError, OSError) as error:
        log.critical("The gate cannot start: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m torchroom.firewall``: put the rules in place and keep them there."""

import os
import signal
import threading
from pathlib import Path

from torchroom.firewall import kernel, settings
from torchroom.firewall.rules import tables
from torchroom.firewall.watch import Watch

LOOK_EVERY_S = 2.0
FLAG = Path("/run/torchroom-firewall/in-place")


def main() -> None:
    """Look until asked to end."""
    asked = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: asked.set())
    try:
        wanted = settings.read(os.environ)
    except settings.FirewallError as error:
        # Not an exit: the engine would start it over and over.
        print(f"the firewall is not in place: {error}", flush=True)
        asked.wait()
        return
    watch = Watch(
        find=kernel.of_engine,
        tables=tables(wanted, kernel.resolvers(), has_ipv6=kernel.has_ipv6()),
        flag=FLAG,
        say=lambda sentence: print(sentence, flush=True),
    )
    while not asked.is_set():
        watch.look()
        asked.wait(LOOK_EVERY_S)
    watch.end(is_used=kernel.has_ports(wanted.bridge))


if __name__ == "__main__":
    main()

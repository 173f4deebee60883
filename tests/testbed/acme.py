"""An ACME authority of the run's own: Pebble, Let's Encrypt's server for tests.

Every name that it looks up leads to this machine, so it finds the TLS proxy that
listens here.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from testbed.certificates import Authority
from testbed.engine import wait_until
from testbed.https import listens

HERE = "127.0.0.1"
DNS_PORT, ACME_PORT, MANAGEMENT_PORT = 8053, 14000, 15000
LISTENS_WITHIN_S = 20
ENDS_WITHIN_S = 10
QUICK = {
    "PEBBLE_VA_NOSLEEP": "1",  # it likes to dawdle, as a test
    "PEBBLE_WFE_NONCEREJECT": "0",
}


@dataclass(frozen=True)
class Pebble:
    """A running authority.

    Attributes:
        directory: Its address, for whoever wants a certificate.
        trusted: What they must trust to talk to it.
        root: What browsers must trust to take its certificates.
    """

    directory: str
    trusted: Path
    root: Path


@contextlib.contextmanager
def pebble(authority: Authority, folder: Path, *, valid_s: int) -> Iterator[Pebble]:
    """Run one; ended afterwards.

    Args:
        authority: Signs the authority's own certificate for https.
        folder: Where it keeps its files.
        valid_s: How long its certificates are good.
    """
    certificate, key = authority.issue(HERE)
    config = folder / "pebble.json"
    config.write_text(
        json.dumps(
            {
                "pebble": {
                    "listenAddress": f"{HERE}:{ACME_PORT}",
                    "managementListenAddress": f"{HERE}:{MANAGEMENT_PORT}",
                    "certificate": str(certificate),
                    "privateKey": str(key),
                    "httpPort": 8080,
                    "tlsPort": 8443,
                    "certificateValidityPeriod": valid_s,
                }
            }
        )
    )
    names = ["pebble-challtestsrv", "-defaultIPv4", HERE, "-defaultIPv6", ""]
    names += ["-dns01", f"{HERE}:{DNS_PORT}", "-management", f"{HERE}:8055"]
    names += ["-http01", "", "-https01", "", "-tlsalpn01", ""]
    serve = ["pebble", "-config", str(config), "-dnsserver", f"{HERE}:{DNS_PORT}"]
    with contextlib.ExitStack() as stack:
        for command, port in ((names, 8055), (serve, ACME_PORT)):
            stack.enter_context(_running(command, folder / f"{command[0]}.log", port))
        root = folder / "root.pem"
        url = f"https://{HERE}:{MANAGEMENT_PORT}/roots/0"
        answer = requests.get(url, verify=str(authority.certificate), timeout=10)
        root.write_bytes(answer.content)
        yield Pebble(f"https://{HERE}:{ACME_PORT}/dir", authority.certificate, root)


@contextlib.contextmanager
def _running(command: list[str], log: Path, port: int) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=os.environ | QUICK, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        wait_until(
            lambda: listens(HERE, port) or process.poll() is not None,
            what=f"{command[0]} listens",
            within_s=LISTENS_WITHIN_S,
        )
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(ENDS_WITHIN_S)

"""What the hub itself needs."""

from functools import partial
from pathlib import Path

import pytest
from testbed.hub import Deployment, crowd, together

pytestmark = pytest.mark.docker

LIMIT_MB = 250
CONSOLE_LIMIT_MB = 125
N_KNOWN, N_RUNNING = 50, 10


def rss_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process and its children, in MB: console's, others'."""
    process = Path(f"/proc/{pid}")
    status = (process / "status").read_text()
    own = int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6
    is_console = b"torchroom.console" in (process / "cmdline").read_bytes()
    console, others = (own, 0.0) if is_console else (0.0, own)
    for child in (process / "task" / str(pid) / "children").read_text().split():
        of_console, of_others = rss_mb(int(child))
        console, others = console + of_console, others + of_others
    return console, others


def test_the_hub_stays_small(
    deployment: Deployment, record_property: pytest.FixtureRequest
) -> None:
    """With 50 known users and 10 running servers the hub is below 250 MB.

    Its service for tokens is a process of its own, and below half of that.
    """
    admin = deployment.admin_user
    names = [f"known{n}" for n in range(N_KNOWN - N_RUNNING)]
    reply = admin.api("POST", "/users", json={"usernames": names})
    assert reply.ok, reply.text
    with crowd(deployment) as people:
        users = [people("runner") for _ in range(N_RUNNING)]
        started = together(partial(user.start, "cpu") for user in users)
        failed = [result for result in started if isinstance(result, Exception)]
        assert not failed, failed
        assert all(user.answers() for user in users)
        console, hub = rss_mb(deployment.service("hub").attrs["State"]["Pid"])
    load = f"with {N_KNOWN}+ users and {N_RUNNING} running servers"
    print(f"hub: {hub:.0f} MB, tokens: {console:.0f} MB, {load}")
    assert hub < LIMIT_MB
    assert 0 < console < CONSOLE_LIMIT_MB

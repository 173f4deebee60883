"""What the hub itself needs."""

from functools import partial
from pathlib import Path

import pytest
from testbed.hub import Deployment, crowd, together

pytestmark = pytest.mark.docker

LIMIT_MB = 250
N_KNOWN, N_RUNNING = 50, 10


def rss_mb(pid: int) -> float:
    """Resident memory of a process and its children, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(rss_mb(int(child)) for child in children)


def test_the_hub_stays_small(
    deployment: Deployment, record_property: pytest.FixtureRequest
) -> None:
    """With 50 known users and 10 running servers the hub is below 250 MB."""
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
        used = rss_mb(deployment.service("hub").attrs["State"]["Pid"])
    print(f"hub: {used:.0f} MB with {N_KNOWN}+ users and {N_RUNNING} running servers")
    assert used < LIMIT_MB

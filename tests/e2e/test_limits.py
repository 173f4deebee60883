"""A server's limits hold, its user learns why it stopped, others notice nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from testbed.engine import wait_until
from testbed.hub import Deployment, User, answering, crowd, together

pytestmark = pytest.mark.docker

NOTICED_WITHIN_S = 40

HOG = """
hoard = []
while True:
    hoard.append(bytearray(b"x" * (64 << 20)))
"""

SHM = """
import torch
from torch.utils.data import DataLoader, Dataset

class Images(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        return torch.full((24, 1024, 1024), float(i))     # 96 MiB

if __name__ == "__main__":
    loader = DataLoader(Images(), batch_size=1, num_workers=2)
    moved = sum(batch.nbytes for batch in loader)
    print(moved >> 20)
"""

FORKS = """
import os, signal, sys
limit, children, ended = int(sys.argv[1]), [], ""
try:
    for _ in range(limit + 10):
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except OSError as error:
    ended = type(error).__name__
for child in children:
    os.kill(child, signal.SIGKILL)
print(len(children), ended)
"""


@dataclass
class Room:
    """Two users with CPU servers."""

    hog: User
    neighbour: User


@pytest.fixture(scope="module")
def room(deployment: Deployment) -> Iterator[Room]:
    """Two servers side by side."""
    with crowd(deployment) as people:
        room = Room(people("hog"), people("neighbour"))
        together([room.hog.start, room.neighbour.start])
        yield room


def test_a_loader_moves_more_than_64_mb_through_shm(room: Room) -> None:
    """DataLoader workers pass batches of 96 MiB, too much for Docker's own shm."""
    assert room.neighbour.python(SHM).split()[-1] == "768"


def test_the_process_limit_holds(room: Room) -> None:
    """A fork bomb ends at the limit, and the server still answers."""
    limit = room.neighbour.container().attrs["HostConfig"]["PidsLimit"]
    status, said = room.neighbour.execute("python3", "-c", FORKS, str(limit))
    assert status == 0, said
    made, error = said.split()
    assert int(made) < limit
    assert error == "BlockingIOError"
    assert room.neighbour.answers()


def test_a_memory_hog_is_stopped_and_told_why(room: Room) -> None:
    """The cell that eats memory ends at the limit; its user reads "out of memory"."""
    with answering(room.neighbour):
        kernel = room.hog.start_kernel()
        printed = room.hog.run_in_kernel(kernel, HOG, within_s=90)
        assert printed.endswith("dead")
        wait_until(
            lambda: tells_out_of_memory(room.hog),
            what='the user reads "out of memory"',
            within_s=NOTICED_WITHIN_S,
        )


def tells_out_of_memory(user: User) -> bool:
    """Is it on the hub's pages, or in the home if only a kernel died?"""
    pages = user.page("/hub/home") + user.page("/hub/spawn")
    if "out of memory" in pages.lower():
        return True
    if not user.listed():
        return False
    listing = user.server_api("GET", "api/contents/").json()
    notes = [row["name"] for row in listing.get("content") or []]
    return any("out-of-memory" in name.lower() for name in notes)


def test_a_server_that_runs_out_of_memory_says_so(
    people: Callable[[str], User],
) -> None:
    """When the whole server ends for memory, the spawn page says that it did."""
    user = people("burst")
    user.start("cpu")
    container = user.container()
    # The kernel ends the process with the highest score: make that the server itself,
    # as if one of its extensions leaked.
    for row in container.top()["Processes"]:
        Path(f"/proc/{row[1]}/oom_score_adj").write_text("1000")
    hog = "x = []\nwhile True: x.append(bytearray(1 << 26))"
    container.exec_run(["python3", "-c", hog], detach=True)
    wait_until(
        lambda: not user.listed(),
        what="the hub notices that the server ended",
        within_s=NOTICED_WITHIN_S,
    )
    assert "out of memory" in user.page("/hub/spawn").lower()
    assert user.start("cpu").running


def test_a_killed_server_says_so(people: Callable[[str], User]) -> None:
    """A server killed from outside is gone from the hub, with a sentence why."""
    user = people("killed")
    user.start("cpu")
    user.container().kill()
    wait_until(
        lambda: not user.listed(), what="the hub notices", within_s=NOTICED_WITHIN_S
    )
    page = user.page("/hub/spawn")
    assert "killed" in page
    assert "Traceback" not in page
    assert not user.deployment.servers(user=user.name)
    assert user.start("cpu").running

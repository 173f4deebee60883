"""I2: kill -9 of the hub at each step of a start and a stop, then let it come back.

Each step holds one request of the hub to the engine, before the engine hears of it or
after the engine did it; there the hub is killed. Afterwards no slot is lost or double,
no container is left over, and another user's server has answered all the time.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from testbed.engine import wait_until
from testbed.engine_proxy import EngineProxy, Hold, Request, When
from testbed.hub import Deployment, Lease, User, answering, crowd, together

pytestmark = pytest.mark.docker

SETTLED_WITHIN_S = 45
ALL_GPUS = 4


@dataclass(frozen=True)
class Step:
    """A request of the hub to the engine, and on which side of it the hub dies."""

    name: str
    method: str
    target: str
    when: When
    body: str = ""

    def takes(self, request: Request) -> bool:
        """Is this the request?"""
        same = self.method == request.method
        same = same and re.search(self.target, request.target) is not None
        return same and re.search(self.body, request.body) is not None

    def hold(self, proxy: EngineProxy) -> Hold:
        """Stop the next such request of the hub."""
        return proxy.hold(self.method, self.target, when=self.when, body=self.body)

    def __str__(self) -> str:
        return f"{self.when} {self.name}"


def around(name: str, method: str, target: str, body: str = "") -> list[Step]:
    """Both sides of a request."""
    sides: tuple[When, When] = ("before", "after")
    return [Step(name, method, target, when, body) for when in sides]


CONTAINER = r"^/containers/[^/]+"
DEVICES, INTERRUPT = r"set -- /dev/nvidia", r"kernel-\*\.json"
START = [
    Step("the home is looked for", "GET", r"^/volumes/", "before"),
    *around("the home is made", "POST", r"^/volumes/create"),
    *around("the container is made", "POST", r"^/containers/create"),
    *around("files are laid in", "PUT", rf"{CONTAINER}/archive"),
    *around("the container starts", "POST", rf"{CONTAINER}/start"),
    *around("the devices are checked", "POST", rf"{CONTAINER}/exec", DEVICES),
]
STOP = [
    *around("kernels are interrupted", "POST", rf"{CONTAINER}/exec", INTERRUPT),
    *around("the container stops", "POST", rf"{CONTAINER}/stop"),
    *around("the container is removed", "DELETE", rf"{CONTAINER}(\?|$)"),
]
# Requests that change nothing of ours beyond what the steps above cover.
HARMLESS = r"/exec/[^/]+/(start|resize)|/images/create|/wait"
LOOKS = r"not permitted"  # whether a server can still open its devices, now and then


@pytest.fixture(scope="module")
def bystander(deployment: Deployment) -> Iterator[User]:
    """Another user, whose CPU server runs all the time."""
    with crowd(deployment) as people:
        user = people("bystander")
        user.start("cpu")
        yield user


def crash(deployment: Deployment) -> None:
    """Kill the hub, drop what it held, and wait until it is back."""
    deployment.kill_hub()
    deployment.proxy.clear()
    deployment.wait_up()


def settle(deployment: Deployment, users: list[User]) -> None:
    """Wait until containers and the hub's list agree and nothing is under way."""

    def agreed() -> bool:
        servers = [model for user in users for model in user.listed().values()]
        pending = any(model["pending"] for model in servers)
        return not pending and not deployment.strays()

    wait_until(agreed, what="hub and engine agree", within_s=SETTLED_WITHIN_S)


def check_every_gpu_can_be_leased(
    deployment: Deployment, victims: list[User], checker: User
) -> None:
    """Lease all GPUs at once, then interrupt that start: nothing may be left."""
    running = [user for user in victims if user.listed()]
    stopped = together(user.stop for user in running)
    assert stopped == [None] * len(running), stopped
    checker.request_server_in_background({"offer": f"{ALL_GPUS}-gpu"})

    def all_leased() -> bool:
        mine = deployment.leases_of(checker)
        return any(x.running and len(set(x.devices)) == ALL_GPUS for x in mine)

    wait_until(all_leased, what="all GPUs are leased", within_s=SETTLED_WITHIN_S)
    checker.request_stop()
    for user in (checker, *victims):
        wait_until(
            user.is_idle, what=f"nothing is left of {user}", within_s=SETTLED_WITHIN_S
        )


def batches(steps: list[Step]) -> list[list[Step]]:
    """As many steps at once as there are GPUs: one crash for several victims."""
    return [steps[i : i + ALL_GPUS] for i in range(0, len(steps), ALL_GPUS)]


def names(steps: list[Step]) -> str:
    """Name a batch."""
    return ", ".join(map(str, steps))


@pytest.mark.parametrize("steps", batches(START), ids=names)
def test_killed_during_starts(
    deployment: Deployment,
    people: Callable[[str], User],
    bystander: User,
    steps: list[Step],
) -> None:
    """The hub dies in the middle of starts; nothing leaks and nothing doubles.

    One victim after the other is led to its step and held there: each rule takes one
    request, and only one victim moves at a time. Every victim's start is its first.
    """
    victims = [people("victim") for _ in steps]
    checker = people("checker")
    with answering(bystander):
        for user, step in zip(victims, steps, strict=True):
            held = step.hold(deployment.proxy)
            user.request_server_in_background({"offer": "1-gpu"})
            held.reached()
        crash(deployment)
        settle(deployment, victims)
        check_every_gpu_can_be_leased(deployment, victims, checker)


def test_killed_while_servers_boot(
    deployment: Deployment, people: Callable[[str], User], bystander: User
) -> None:
    """The hub dies when the containers run but have not answered yet."""
    victims = [people("booting") for _ in range(2)]
    checker = people("checker")
    with answering(bystander):
        for user in victims:
            user.request_server_in_background({"offer": "2-gpu"})
        wait_until(
            lambda: all(
                any(lease.running for lease in deployment.leases_of(user))
                for user in victims
            ),
            what="the containers run",
            within_s=30,
        )
        crash(deployment)
        settle(deployment, victims)
        check_every_gpu_can_be_leased(deployment, victims, checker)


@pytest.mark.parametrize("steps", batches(STOP), ids=names)
def test_killed_during_stops(
    deployment: Deployment,
    people: Callable[[str], User],
    bystander: User,
    steps: list[Step],
) -> None:
    """The hub dies in the middle of stops; the slots come back."""
    victims = [people("stopping") for _ in steps]
    checker = people("checker")
    started = together(partial(user.start, "1-gpu") for user in victims)
    assert all(isinstance(lease, Lease) for lease in started), started
    with answering(bystander):
        for user, step in zip(victims, steps, strict=True):
            held = step.hold(deployment.proxy)
            user.request_stop_in_background()
            held.reached()
        crash(deployment)
        settle(deployment, victims)
        check_every_gpu_can_be_leased(deployment, victims, checker)


def test_killed_while_one_waits_in_the_queue(
    deployment: Deployment, people: Callable[[str], User], bystander: User
) -> None:
    """The place is kept, and nobody who comes later is served before."""
    holder, waiter, late = people("holder"), people("waiter"), people("late")
    holder.start(f"{ALL_GPUS}-gpu")
    waiter.queue(f"{ALL_GPUS}-gpu").close()
    with answering(bystander), answering(holder):
        crash(deployment)
        settle(deployment, [waiter])
        later = late.queue("1-gpu")
        page = waiter.queue(f"{ALL_GPUS}-gpu")
        assert "number 1 in the queue" in page.messages[-1]
        assert "number 2 in the queue" in later.messages[-1]
    holder.stop()
    assert page.wait_end().get("ready")
    waiter.stop()
    assert later.wait_end().get("ready")
    for each in (page, later):
        each.close()


def test_killed_when_one_gets_a_lease_from_the_queue(
    deployment: Deployment, people: Callable[[str], User], bystander: User
) -> None:
    """The slots were given to somebody who waited, and no container says so yet."""
    holder, waiter, checker = people("holder"), people("waiter"), people("checker")
    holder.start(f"{ALL_GPUS}-gpu")
    page = waiter.queue(f"{ALL_GPUS}-gpu")
    with answering(bystander):
        with deployment.proxy.hold("GET", r"^/volumes/") as held:
            holder.stop()
            held.reached()
            crash(deployment)
        page.close()
        settle(deployment, [holder, waiter])
        check_every_gpu_can_be_leased(deployment, [holder, waiter], checker)


def test_a_restart_keeps_leases(
    deployment: Deployment, people: Callable[[str], User]
) -> None:
    """After a crash while all is quiet the same server runs with the same lease."""
    user = people("quiet")
    before = user.start("2-gpu")
    with answering(user):
        crash(deployment)
        settle(deployment, [user])
    assert user.lease() == before
    assert user.listed()[""]["ready"]


def test_the_steps_are_all_there_are(
    deployment: Deployment, people: Callable[[str], User]
) -> None:
    """Every request of a start and a stop that changes something is a step above."""
    user = people("observed")
    mark = len(deployment.proxy.requests)
    user.start("2-gpu")
    user.stop()
    changes = [
        request
        for request in deployment.proxy.since(mark)
        if request.method not in {"GET", "HEAD"}
        and not re.search(HARMLESS, request.target)
        and not re.search(LOOKS, request.body)
    ]
    for step in (*START, *STOP):
        assert step.method == "GET" or any(map(step.takes, changes)), f"never: {step}"
    unknown = [
        request
        for request in changes
        if not any(step.takes(request) for step in (*START, *STOP))
    ]
    assert not unknown

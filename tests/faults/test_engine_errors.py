"""I7: an engine that fails, hangs or forgets is not a stopped server."""

import re
from collections.abc import Callable
from functools import partial

import pytest
from testbed.engine import wait_until
from testbed.hub import Deployment, Lease, RefusedError, User, together

pytestmark = pytest.mark.docker

NOTICED_WITHIN_S = 40
"""Longer than the hub's poll interval (10 s), several times."""


def test_a_failing_or_hanging_engine_stops_nothing(
    people: Callable[[str], User], deployment: Deployment
) -> None:
    """While looks at containers fail or hang, servers keep running and their lease.

    Four users' containers, four ways to fail, at the same time; somebody else can
    start meanwhile.
    """
    users = [people("steady") for _ in range(4)]
    other = people("other")
    leases = together(partial(user.start, "1-gpu") for user in users)
    assert all(isinstance(lease, Lease) for lease in leases), leases
    looks = [inspection_of(user) for user in users]
    fails = [
        deployment.proxy.fail("GET", look, status=status)
        for look, status in zip(looks, (500, 502, 503), strict=False)
    ]
    hanging = deployment.proxy.hang("GET", looks[3])
    for fault in (*fails, hanging):
        fault.reached(NOTICED_WITHIN_S)
    wait_until(
        lambda: all(len(fault.seen) >= 2 for fault in fails),
        what="the hub looks again",
        within_s=NOTICED_WITHIN_S,
    )
    other.start("cpu")
    for _ in range(2):  # while it fails, and when it works again
        for user, lease in zip(users, leases, strict=True):
            assert user.listed()[""]["ready"], user
            assert user.lease() == lease
            assert user.answers()
        deployment.proxy.clear()


def inspection_of(user: User) -> str:
    """The request with which the hub looks at this user's container."""
    container = user.container()
    return f"^/containers/({container.id}|{re.escape(str(container.name))})/json"


def test_an_engine_that_only_fails_refuses_starts_in_a_sentence(
    people: Callable[[str], User], deployment: Deployment
) -> None:
    """Nothing is leased while nothing is known; afterwards it works again."""
    user = people("unlucky")
    with deployment.proxy.fail(".*", ".*"):
        with pytest.raises(RefusedError) as caught:
            user.start("1-gpu")
        assert len(caught.value.message.split()) > 4
        assert "Traceback" not in caught.value.message
    assert not deployment.servers(user=user.name)
    assert user.start("1-gpu").running


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", r"^/volumes/create"),
        ("POST", r"^/containers/create"),
        ("PUT", r"/archive"),
        ("POST", r"^/containers/[^/]+/start"),
        ("POST", r"^/containers/[^/]+/exec"),
    ],
    ids=["volume", "create", "files", "start", "check"],
)
def test_a_failed_start_leaves_nothing(
    people: Callable[[str], User], deployment: Deployment, method: str, target: str
) -> None:
    """No container, the slots back, a sentence; the next start works."""
    user = people("failing")
    with deployment.proxy.fail(method, target) as failing:
        with pytest.raises(RefusedError) as caught:
            user.start("4-gpu")
        assert failing.seen
    assert len(caught.value.message.split()) > 4
    assert "Traceback" not in caught.value.message
    wait_until(user.is_idle, what="nothing is left", within_s=NOTICED_WITHIN_S)
    assert len(user.start("4-gpu").devices) == 4


def test_a_failed_start_forgets_the_gpu(
    people: Callable[[str], User], deployment: Deployment
) -> None:
    """After a failed GPU start, a start without options is a CPU server."""
    user = people("forgetful")
    failing = deployment.proxy.fail("POST", r"^/containers/create")
    with failing, pytest.raises(RefusedError):
        user.start("4-gpu")
    reply = user.request_server()
    assert reply.ok, reply.text
    assert user.last_progress().get("ready")
    assert user.lease().devices == ()


def test_a_clean_up_that_fails_is_done_later(
    people: Callable[[str], User], deployment: Deployment
) -> None:
    """A container that cannot be removed keeps its GPUs until it is gone."""
    user, other = people("stuck"), people("next")
    with (
        deployment.proxy.fail("POST", r"^/containers/[^/]+/start"),
        deployment.proxy.fail("DELETE", r"^/containers/") as removing,
    ):
        with pytest.raises(RefusedError):
            user.start("4-gpu")
        assert removing.seen
        assert deployment.servers(user=user.name)
        page = other.queue("4-gpu")
        assert not deployment.servers(user=other.name)
    wait_until(
        lambda: not deployment.servers(user=user.name),
        what="the container is removed after all",
        within_s=NOTICED_WITHIN_S,
    )
    assert page.wait_end().get("ready")
    page.close()
    assert len(other.lease().devices) == 4


@pytest.mark.parametrize("way", ["fails", "hangs"])
def test_kernels_that_cannot_be_interrupted_hold_up_no_stop(
    people: Callable[[str], User], deployment: Deployment, way: str
) -> None:
    """The engine does not run commands in containers, but it stops them."""
    user = people("stopping")
    user.start("4-gpu")
    command, interrupt = r"^/containers/[^/]+/exec", r"kernel-\*\.json"
    rule = (
        deployment.proxy.fail("POST", command, body=interrupt)
        if way == "fails"
        else deployment.proxy.hold("POST", command, body=interrupt)
    )
    with rule:
        user.stop()
        assert rule.seen
    assert len(user.start("4-gpu").devices) == 4


def test_a_stop_that_the_engine_refuses_keeps_the_gpus_until_it_works(
    people: Callable[[str], User], deployment: Deployment
) -> None:
    """A server that may still run is not reported as stopped, and leaks nothing."""
    user, other = people("stopping"), people("next")
    user.start("4-gpu")
    with deployment.proxy.fail("POST", r"^/containers/[^/]+/stop") as failing:
        user.request_stop_in_background()
        failing.reached()
        page = other.queue("1-gpu")
        assert deployment.servers(user=user.name)
    wait_until(user.is_idle, what="it stops after all", within_s=NOTICED_WITHIN_S)
    assert page.wait_end().get("ready")
    page.close()


def test_a_container_removed_by_hand_gives_its_slot_back(
    people: Callable[[str], User], deployment: Deployment
) -> None:
    """``docker rm -f`` by an admin: the hub notices, and all GPUs can be leased."""
    user = people("removed")
    user.start("2-gpu")
    user.container().remove(force=True)
    wait_until(
        lambda: not user.listed(), what="the hub notices", within_s=NOTICED_WITHIN_S
    )
    assert len(user.start("4-gpu").devices) == 4
    deployment.leases()


def test_an_interrupted_start_leaves_nothing(
    people: Callable[[str], User], deployment: Deployment
) -> None:
    """A user changes their mind while the engine makes the container."""
    user = people("fickle")
    create = r"^/containers/create"
    with deployment.proxy.hold("POST", create, when="after") as held:
        user.request_server_in_background({"offer": "4-gpu"})
        held.reached()
        reply = user.request_stop()
        assert reply.ok, reply.text
    wait_until(user.is_idle, what="nothing is left", within_s=NOTICED_WITHIN_S)
    assert len(user.start("4-gpu").devices) == 4


def test_a_slow_start_blocks_nobody_else(
    people: Callable[[str], User], deployment: Deployment
) -> None:
    """While the engine works on one user's container, others start and stop."""
    slow, quick = people("slow"), people("quick")
    mine = rf"^/containers/create.*{slow.name}"
    with deployment.proxy.hold("POST", mine) as held:
        slow.request_server_in_background({"offer": "1-gpu"})
        held.reached()
        assert quick.start("1-gpu").running
        quick.stop()
        assert slow.listed()[""]["pending"] == "spawn"
    wait_until(
        lambda: slow.listed().get("", {}).get("ready"),
        what="the slow start ends well",
        within_s=60,
    )

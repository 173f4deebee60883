"""The queue as its users see it: place, leaving, time limit, and the hub's restart."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from playwright.sync_api import Page, expect
from testbed.browser import choose, log_in
from testbed.engine import wait_until
from testbed.hub import Deployment, SpawnPage, User, crowd
from testbed.plain_hub import plain_hub

pytestmark = pytest.mark.docker

SHOWN_MS = 30_000
NOTICED_MS = 90_000
READY_MS = 90_000
LAB = "**/lab/tree/welcome.ipynb*"
LIMIT_S, GRACE_S = 40, 2


def queue(deployment: Deployment) -> list[str]:
    """Who waits, first in line first, as the admin sees it."""
    reply = deployment.admin_user.api("GET", "/gpus")
    assert reply.ok, reply.text
    return [ticket["user"] for ticket in reply.json()["queue"]]


def wait_for_queue(deployment: Deployment, *users: User) -> None:
    """Wait until exactly these wait."""
    names = [user.name for user in users]
    wait_until(
        lambda: queue(deployment) == names,
        what=f"{names} wait, not {queue(deployment)}",
        within_s=20,
    )


@pytest.fixture
def holder(people: Callable[[str], User]) -> User:
    """Somebody who has all four GPUs."""
    user = people("holder")
    user.start("4-gpu")
    return user


@pytest.mark.browser
def test_the_page_shows_the_place_and_leads_to_the_server(
    page: Page, deployment: Deployment, people: Callable[[str], User], holder: User
) -> None:
    """The place goes up when somebody ahead leaves; at the end the server opens."""
    ahead, student = people("ahead"), people("student")
    log_in(page, deployment, student.name)
    with contextlib.closing(ahead.queue("4-gpu")):
        choose(page, "4-gpu")
        place = page.locator("#progress-message")
        expect(place).to_contain_text("You are number 2 in the queue", timeout=SHOWN_MS)
        expect(place).to_contain_text(re.compile("about|cannot be said yet"))
        wait_for_queue(deployment, ahead, student)
        ahead.request_stop()
        expect(place).to_contain_text("You are number 1 in the queue", timeout=SHOWN_MS)
        holder.stop()
        page.wait_for_url(LAB, timeout=READY_MS)
    assert len(student.lease().devices) == 4
    assert queue(deployment) == []


@pytest.mark.browser
@pytest.mark.parametrize("button", ["Leave the queue", "Stop Server"])
def test_a_button_leaves_the_queue(
    page: Page,
    deployment: Deployment,
    people: Callable[[str], User],
    holder: User,
    button: str,
) -> None:
    """Ours beside the place, and JupyterHub's own."""
    student = people("student")
    log_in(page, deployment, student.name)
    choose(page, "1-gpu")
    place = page.locator("#progress-message")
    expect(place).to_contain_text("You are number 1 in the queue", timeout=SHOWN_MS)
    page.get_by_role("button", name=button).first.click()
    expect(page.locator("#start")).to_be_visible(timeout=SHOWN_MS)
    assert queue(deployment) == []
    assert student.is_idle()
    assert holder.answers()


@pytest.mark.browser
def test_a_page_that_waits_goes_on_waiting_after_the_hub_died(
    page: Page, deployment: Deployment, people: Callable[[str], User], holder: User
) -> None:
    """Nobody touches the page: it finds the hub again, and its place."""
    student, later = people("student"), people("later")
    log_in(page, deployment, student.name)
    choose(page, "4-gpu")
    place = page.locator("#progress-message")
    expect(place).to_contain_text("You are number 1 in the queue", timeout=SHOWN_MS)
    with contextlib.closing(later.queue("4-gpu")):
        wait_for_queue(deployment, student, later)
    page.evaluate("window.isOld = true")
    deployment.kill_hub()
    deployment.wait_up()
    page.wait_for_function("!window.isOld", timeout=NOTICED_MS)
    expect(place).to_contain_text("You are number 1 in the queue", timeout=SHOWN_MS)
    wait_for_queue(deployment, student, later)
    later.start("cpu")
    wait_for_queue(deployment, student)  # a place that was kept is given up by that
    holder.stop()
    page.wait_for_url(LAB, timeout=READY_MS)
    assert len(student.lease().devices) == 4


@pytest.mark.parametrize("end", [Deployment.kill_hub, Deployment.restart_hub])
def test_three_who_waited_when_the_hub_ended_have_their_places_again(
    deployment: Deployment,
    people: Callable[[str], User],
    holder: User,
    end: Callable[[Deployment], None],
) -> None:
    """They come back in another order; the form says so; no GPU is lost."""
    users = [people("waiter") for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for user in users:
            stack.enter_context(contextlib.closing(user.queue("4-gpu")))
        wait_for_queue(deployment, *users)
        end(deployment)
    deployment.wait_up()
    assert queue(deployment) == [user.name for user in users]
    with contextlib.ExitStack() as stack:
        pages: dict[str, SpawnPage] = {}
        for user in reversed(users):
            form = user.page("/hub/spawn")
            assert "You were waiting in the queue when the hub was restarted" in form
            assert re.search(r'value="4-gpu"\s+checked', form)
            shown = stack.enter_context(contextlib.closing(user.queue("4-gpu")))
            pages[user.name] = shown
        for number, user in enumerate(users, 1):
            pages[user.name].wait_for(f"You are number {number} in the queue")
        holder.stop()
        for user in users:
            assert pages[user.name].wait_end()["ready"]
            assert len(user.lease().devices) == 4
            user.stop()
    assert queue(deployment) == []


def test_stopping_and_deleting_who_waits_leaves_no_trace(
    deployment: Deployment, people: Callable[[str], User], holder: User
) -> None:
    """An admin stops the start and deletes the user: the next moves up."""
    gone, next_one = deployment.new_user("gone"), people("next")
    admin = deployment.admin_user
    with (
        contextlib.closing(gone.queue("4-gpu")),
        contextlib.closing(next_one.queue("4-gpu")) as page,
    ):
        page.wait_for("You are number 2 in the queue")
        assert admin.api("DELETE", f"/users/{gone.name}/server").ok
        assert admin.api("DELETE", f"/users/{gone.name}").ok
        page.wait_for("You are number 1 in the queue")
        wait_for_queue(deployment, next_one)
        assert not deployment.servers(user=gone.name)
        holder.stop()
        assert page.wait_end()["ready"]


# -- settings that would make the others wait for minutes ----------------------------


@pytest.fixture(scope="module")
def quick_hub(
    engine: docker.DockerClient,
    gpu_dir: Path,
    user_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """A hub whose queue is short in time; servers of users named crash... crash."""
    lines = f"""
def crash(spawner):
    if spawner.user.name.startswith("crash"):
        spawner.cmd = ["sh", "-c", "exit 3"]

c.JupyterHub.spawner_class = "gpu-docker"
c.JupyterHub.hub_ip = "172.17.0.1"
c.GPUDockerSpawner.image = "{user_image}"
c.GPUDockerSpawner.queue_timeout = {LIMIT_S}
c.GPUDockerSpawner.queue_page_grace = {GRACE_S}
c.GPUDockerSpawner.pre_spawn_hook = crash
c.GPUDockerSpawner.start_timeout = 3600
c.GPUDockerSpawner.http_timeout = 3600
"""
    folder = tmp_path_factory.mktemp("quick")
    with plain_hub(folder, lines, engine=engine, gpu_dir=gpu_dir) as started:
        yield started


def test_who_closes_the_page_leaves_and_who_never_had_one_waits_to_the_limit(
    quick_hub: Deployment,
) -> None:
    """Closing counts after the grace; a start over REST ends at the time limit."""
    with crowd(quick_hub) as people:
        holder, script, closing = people("holder"), people("script"), people("closing")
        holder.start("4-gpu")
        script.request_server_in_background({"offer": "1-gpu"})
        script.wait_listed()
        closing.queue("1-gpu").close()
        wait_until(
            lambda: not closing.listed(), what="who closed the page left", within_s=15
        )
        with contextlib.closing(closing.watch()) as page:
            assert "because the page was closed" in page.wait_end()["message"]
        assert script.listed()[""]["pending"] == "spawn"
        wait_until(
            lambda: not script.listed(), what="the time limit", within_s=LIMIT_S + 15
        )
        with contextlib.closing(script.watch()) as page:
            told = page.wait_end()["message"]
        assert f"Nothing came free within {LIMIT_S} seconds" in told
        assert "Start again to wait longer" in told
        holder.stop()
        assert len(script.start("4-gpu").devices) == 4


def test_a_boot_that_crashes_is_told_at_once(quick_hub: Deployment) -> None:
    """Not after the time-outs, which are two hours here; its reason is told."""
    with crowd(quick_hub) as people:
        user = people("crash")
        user.request_server_in_background({"offer": "1-gpu"})
        user.wait_listed()
        with contextlib.closing(user.watch()) as page:
            end = page.wait_end()
        assert end["failed"]
        assert "could not be started: it crashed (exit code 3)." in end["message"]
        assert not quick_hub.servers(user=user.name)

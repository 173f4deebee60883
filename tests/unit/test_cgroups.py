"""A process's container is found in whatever form the machine's cgroups take."""

import pytest
from gpuspawner.cgroups import (
    container_ids,
    parse_cpu_ticks,
    parse_stat,
    parse_status,
    v2_path,
)
from hypothesis import given
from hypothesis import strategies as st

ID, INNER = "0123456789abcdef" * 4, "fedcba9876543210" * 4

V1 = "\n".join(
    f"{n}:{name}:{{path}}"
    for n, name in enumerate(("name=systemd", "memory", "cpu,cpuacct", "devices"), 1)
)


@pytest.mark.parametrize(
    "path",
    [
        f"/system.slice/docker-{ID}.scope",
        f"/docker/{ID}",
        f"/torchroom/{ID}",
        f"/course.slice/course-gpu.slice/docker-{ID}.scope",
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope",
        f"/../{ID}",
        f"/../docker-{ID}.scope",
        f"/../../system.slice/docker-{ID}.scope",
        f"/system.slice/docker-{ID}.scope/init",
        f"/docker/{ID}/user.slice/kernel-1",
        f"/docker/{ID} (deleted)",
    ],
)
def test_a_container_is_found_on_every_kind_of_machine(path: str) -> None:
    """Cgroup v2, v1, and hybrid with an empty or a full v2 line."""
    v1 = V1.format(path=path)
    for text in (f"0::{path}\n", v1, f"{v1}\n0::/\n", f"{v1}\n0::{path}\n"):
        assert container_ids(text) == (ID,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0::/\n",
        "0::/init.scope\n",
        "0::/user.slice/user-1000.slice/session-3.scope\n",
        "0::/system.slice/docker.service\n",
        f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n",
        f"0::/kubepods/besteffort/pod0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f/{ID}\n",
        f"0::/machine.slice/libpod-{ID}.scope/container\n",
        f"0::/libpod_parent/libpod-conmon-{ID}\n",
        f"0::/system.slice/crio-{ID}.scope\n",
        f"0::/system.slice/not-docker-{ID}.scope\n",
        f"0::/docker/{ID[:32]}\n",
        f"0::/docker/{ID}ab\n",
        "not a cgroup file",
        "::::\n\0\n",
    ],
)
def test_what_is_no_docker_container_is_taken_for_none(text: str) -> None:
    """The host's processes, and those of other engines."""
    assert container_ids(text) == ()


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{ID}/docker/{INNER}",
        f"/system.slice/docker-{ID}.scope/system.slice/docker-{INNER}.scope",
        f"/../docker-{ID}.scope/docker/{INNER}",
    ],
)
def test_of_docker_inside_docker_the_outermost_comes_first(path: str) -> None:
    """It is the one a hub outside knows; a container cannot forge what is above."""
    assert container_ids(f"0::{path}\n") == (ID, INNER)


@given(st.text())
def test_no_text_whatever_breaks_the_parser(text: str) -> None:
    """A kernel may print what nobody expected: it names no container."""
    assert all(len(found) == 64 for found in container_ids(text))
    assert v2_path(text, ID) is None or ID in text
    parse_stat(text)
    parse_cpu_ticks(text)
    parse_status(text)


def test_the_driver_is_told_the_containers_own_cgroup() -> None:
    """Also for a process in a cgroup that the container made below it."""
    path = f"/system.slice/docker-{ID}.scope"
    assert v2_path(f"0::{path}\n", ID) == f"/sys/fs/cgroup{path}"
    assert v2_path(f"0::{path}/init\n", ID) == f"/sys/fs/cgroup{path}"
    assert v2_path(f"0::/docker/{ID}/docker/{INNER}\n", INNER) == (
        f"/sys/fs/cgroup/docker/{ID}/docker/{INNER}"
    )


@pytest.mark.parametrize(
    "text",
    [
        V1.format(path=f"/docker/{ID}"),
        V1.format(path=f"/docker/{ID}") + f"\n0::/docker/{ID}\n",
        f"0::/../docker-{ID}.scope\n",
        f"0::/system.slice/docker-{INNER}.scope\n",
        "0::/\n",
        "",
    ],
)
def test_where_no_cgroup_can_be_named_the_driver_is_told_none(text: str) -> None:
    """On v1 and hybrid, from another namespace, and of another container."""
    assert v2_path(text, ID) is None


@given(
    # The kernel's comm: at most 15 bytes, any of them.
    name=st.text(max_size=15),
    start=st.integers(min_value=0, max_value=2**63),
)
def test_the_start_time_is_read_whatever_a_program_calls_itself(
    name: str, start: int
) -> None:
    """A name of brackets, spaces and digits cannot shift the fields."""
    fields = ["S", *map(str, range(4, 22)), str(start), *map(str, range(23, 53))]
    assert parse_stat(f"4242 ({name}) {' '.join(fields)}\n") == (name, start)


def test_an_unreadable_stat_or_status_is_unknown() -> None:
    """Half a file is not an identity."""
    assert parse_stat("") is None
    assert parse_stat("4242 (python) S 1 2 3") is None
    assert parse_cpu_ticks("") is None
    assert parse_cpu_ticks("4242 (python) S 1 2 3") is None
    assert parse_status("Uid:\t1000\t1000\t1000\t1000\n") is None
    assert parse_status("NSpid:\t1\n") is None
    assert parse_status("Uid:\t1000\nNSpid:\n") is None
    assert parse_status("Uid:\tx\nNSpid:\t1\n") is None
    told = "Name:\tpy:thon\nUid:\t1000\t0\t0\t0\nNSpid:\t4242\t17\n"
    assert parse_status(told) == (1000, (4242, 17))

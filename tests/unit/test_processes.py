"""Who is behind a PID is read from /proc, and never guessed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gpuspawner.cgroups import ProcessIdentity
from gpuspawner.processes import INITIAL_PID_NAMESPACE, Processes
from gpuspawner.watchdog import end_command

ID = "0123456789abcdef" * 4
Table = Callable[..., None]


def stat(name: str, start: int) -> str:
    fields = ["S", *map(str, range(4, 22)), str(start), *map(str, range(23, 53))]
    return f"1 ({name}) {' '.join(fields)}\n"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Writes processes into a process table of its own, which is the host's."""

    def write(
        pid: str,
        *,
        start: int = 7,
        cgroup: str = "0::/\n",
        pids: str = "4242",
        command: bytes = b"python\0train.py\0",
        name: str = "python",
    ) -> None:
        folder = tmp_path / pid
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(stat(name, start))
        (folder / "status").write_text(f"Uid:\t1000\t0\t0\t0\nNSpid:\t{pids}\n")
        (folder / "cgroup").write_text(cgroup)
        (folder / "cmdline").write_bytes(command)

    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to(INITIAL_PID_NAMESPACE)
    return write


def test_a_process_of_a_container_is_named(tmp_path: Path, table: Table) -> None:
    """With its container, its uid, and the PID that it has in there."""
    table("4242", cgroup=f"0::/system.slice/docker-{ID}.scope\n", pids="4242\t17\t3")
    found = Processes(tmp_path).identify(4242)
    assert found == ProcessIdentity(
        4242, 7, 1000, "python", "python train.py", (ID,), 17
    )
    assert str(found) == "process 4242 (python train.py)"


def test_a_process_whose_first_thread_has_ended_is_still_of_its_container(
    tmp_path: Path, table: Table
) -> None:
    """Cgroup v1 has such a thread in "/" already, and the others where they run."""
    table("4242", cgroup="4:memory:/\n")
    for thread, path in (("4242", "/"), ("4250", f"/docker/{ID}")):
        (tmp_path / "4242/task" / thread).mkdir(parents=True)
        (tmp_path / "4242/task" / thread / "cgroup").write_text(f"4:memory:{path}\n")
    found = Processes(tmp_path).identify(4242)
    assert found
    assert found.containers == (ID,)


def test_a_process_of_the_host_keeps_its_pid(tmp_path: Path, table: Table) -> None:
    """The hub's own children too."""
    table("4242")
    found = Processes(tmp_path).identify(4242)
    assert found
    assert (found.containers, found.inner_pid) == ((), 4242)


def test_cpu_time_is_that_of_this_very_process(tmp_path: Path, table: Table) -> None:
    """Its PID may be another's by now: that one's time says nothing."""
    table("4242")
    processes = Processes(tmp_path)
    found = processes.identify(4242)
    assert found
    own_and_of_ended_children = 14 + 15 + 16 + 17
    ticks_s = os.sysconf("SC_CLK_TCK")
    assert processes.cpu_s(found) == own_and_of_ended_children / ticks_s
    table("4242", start=8)
    assert processes.cpu_s(found) is None
    (tmp_path / "4242/stat").unlink()
    assert processes.cpu_s(found) is None


WORKS = """
import os, time
child = os.fork()
began = time.process_time()
while not child and time.process_time() - began < 0.3:
    pass
if not child:
    print(flush=True)
    time.sleep(60)
input()
os.kill(child, 9)
os.wait()
print(flush=True)
input()
"""


def test_cpu_time_is_also_that_of_children_at_work_and_of_those_that_ended() -> None:
    """A program waits while its children prepare what it computes with."""
    processes = Processes()
    if not processes.is_hosts:
        pytest.skip("these tests run in a PID namespace of their own")
    with subprocess.Popen(
        [sys.executable, "-c", WORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin
        assert parent.stdout
        who = processes.identify(parent.pid)
        assert who
        parent.stdout.readline()
        used_s = processes.cpu_s(who)
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        parent.stdout.readline()
        used_later_s = processes.cpu_s(who)
        parent.kill()
    assert used_s
    assert used_s >= 0.25
    assert used_later_s
    assert used_later_s >= used_s


def test_no_depth_of_children_is_too_deep(tmp_path: Path, table: Table) -> None:
    """A user may have thousands, each the child of the one before."""
    n = 1200  # more than Python can call in a chain
    for pid in range(1, n + 1):
        table(str(pid))
        task = tmp_path / str(pid) / "task" / str(pid)
        task.mkdir(parents=True)
        (task / "children").write_text(f"{pid + 1} ")
    processes = Processes(tmp_path)
    found = processes.identify(1)
    assert found
    each_s = (14 + 15 + 16 + 17) / os.sysconf("SC_CLK_TCK")
    assert processes.cpu_s(found) == pytest.approx(n * each_s)


def test_cpu_time_of_a_real_process_grows() -> None:
    """By what it uses, in seconds."""
    processes = Processes()
    me = processes.identify(os.getpid())
    if me is None:
        pytest.skip("this machine's process table cannot be read")
    before = processes.cpu_s(me)
    assert before is not None
    began = time.process_time()
    while time.process_time() - began < 0.1:
        pass
    after = processes.cpu_s(me)
    assert after is not None
    assert after - before >= 0.05


def test_a_command_line_is_shown_in_one_short_line(
    tmp_path: Path, table: Table
) -> None:
    """It reaches logs and pages: no line break, no escape code, no megabytes."""
    table("4242", command=b"python\0-c\0import x\n\x1b[2J\xff" + b"x" * 10**6)
    found = Processes(tmp_path).identify(4242)
    assert found
    assert found.command.isprintable()
    assert found.command.startswith("python -c import x ?[2J")
    assert len(found.command) == 80


def test_a_pid_that_ended_or_cannot_be_read_is_unknown(
    tmp_path: Path, table: Table
) -> None:
    """Unknown is not nobody: there is no identity to act on."""
    assert Processes(tmp_path).identify(4242) is None
    for missing in ("stat", "status", "cgroup", "cmdline"):
        table("4242")
        (tmp_path / "4242" / missing).unlink()
        assert Processes(tmp_path).identify(4242) is None


def test_a_pid_given_to_another_process_meanwhile_is_unknown(
    tmp_path: Path, table: Table
) -> None:
    """One half of the answer would be of the old, the other of the new process."""
    table("4242", start=7)

    class Reused(Processes):
        def _read(self, pid: str, name: str) -> str | None:
            text = super()._read(pid, name)
            if name == "cgroup":
                table("4242", start=8)
            return text

    assert Reused(tmp_path).identify(4242) is None


def test_a_new_process_with_an_old_pid_is_not_the_old_one(
    tmp_path: Path, table: Table
) -> None:
    """Asked again before anything is ended."""
    table("4242", start=7)
    processes = Processes(tmp_path)
    old = processes.identify(4242)
    assert old
    assert old.is_same_as(processes.identify(4242))
    table("4242", start=8)
    assert not old.is_same_as(processes.identify(4242))


def test_without_the_hosts_process_table_everybody_is_unknown(
    tmp_path: Path, table: Table
) -> None:
    """In a container with PIDs of its own, 4242 is somebody else than on the host."""
    ours = f"0::/docker/{ID}\n"
    table("4242")
    table("1", cgroup=ours)
    (tmp_path / "self/cgroup").write_text(ours)
    link = tmp_path / "self/ns/pid"
    link.unlink()
    link.symlink_to("pid:[4026532001]")
    processes = Processes(tmp_path)
    assert processes.identify(4242) is None
    # A machine that is a container itself: PID 1 is outside of the hub's container.
    table("1", cgroup="0::/init\n")
    assert processes.identify(4242)
    link.unlink()
    assert processes.identify(4242) is None
    assert not Processes(tmp_path / "absent").is_hosts


def test_the_kernel_is_read_as_it_is() -> None:
    """This very process, in the real /proc."""
    processes = Processes()
    if not processes.is_hosts:
        pytest.skip("these tests run in a PID namespace of their own")
    found = processes.identify(os.getpid())
    assert found
    assert found.uid == os.getuid()
    assert found.command
    assert found.is_same_as(processes.identify(os.getpid()))


def test_a_process_is_ended_only_if_it_started_when_it_should_have() -> None:
    """The command compares the start time where it runs; its name cannot fool it."""
    prctl = (
        "import ctypes, sys, time; "
        "ctypes.CDLL(None).prctl(15, b') R 1 (9 9', 0, 0, 0); "
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", prctl], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        child.stdout.readline()
        text = Path(f"/proc/{child.pid}/stat").read_text()
        start = int(text.rpartition(")")[2].split()[19])

        def end(start_time: int, *, by_force: bool = False) -> int:
            who = ProcessIdentity(child.pid, start_time, 0, "python", "", (), child.pid)
            command = end_command(who, by_force=by_force)
            return subprocess.run(command, check=False).returncode

        assert end(start + 1) == 3
        assert child.poll() is None
        assert end(start) == 0
        assert child.wait(10) == -15
    assert end(start) == 3

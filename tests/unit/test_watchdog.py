"""A server over its share is warned, then loses a process, then ends; others never."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from gpuspawner.cgroups import ProcessIdentity
from gpuspawner.model import Device, Lease, LeaseState, Owner, Slot, SlotKind, whole
from gpuspawner.sample import GpuProcess, Sample
from gpuspawner.watchdog import (
    END_SERVER_AT,
    Action,
    Alarm,
    EndProcess,
    EndServer,
    Scene,
    Server,
    Warn,
    Watchdog,
)
from hypothesis import given
from hypothesis import strategies as st

GIB = 2**30
CAP = 10 * GIB
T0 = datetime(2026, 1, 1, tzinfo=UTC)
GPU = Device(0, "GPU-0", "A100", 4 * CAP, 0)
OTHER = Device(1, "GPU-1", "A100", 4 * CAP, 1)
NAMES = {"GPU-0": "GPU 0 (A100)", "GPU-1": "GPU 1 (A100)"}
ANN, BOB, HUB, STRANGER = "a" * 64, "b" * 64, "c" * 64, "d" * 64


def share(n: int, device: Device = GPU) -> Slot:
    return Slot(device, f"{device.uuid}/{n}:4", SlotKind.SHARE, CAP, "1/4")


def server(user: str, container: str, *slots: Slot) -> Server:
    lease = Lease(f"ls_{user}", Owner(user, ""), slots, LeaseState.ACTIVE)
    return Server(lease, container)


def scene(*servers: Server, containers: Mapping[str, str] | None = None) -> Scene:
    return Scene(servers, NAMES, containers or {}, bystanders={HUB})


SHARED = scene(server("ann", ANN, share(0)), server("bob", BOB, share(1)))


def who(
    pid: int, *containers: str, start: int = 1, inner: int = 20, name: str = "python"
) -> ProcessIdentity:
    return ProcessIdentity(
        pid, start, 1000, name, f"{name} train.py", containers, inner
    )


class Sweeps:
    """Judges one sweep after the other, ten seconds apart."""

    def __init__(self, scene: Scene = SHARED) -> None:
        self.dog, self.scene, self.now = Watchdog(), scene, T0

    def see(
        self,
        *rows: tuple[ProcessIdentity, int | None],
        uuid: str = "GPU-0",
        unknown: Sequence[GpuProcess] = (),
    ) -> tuple[Action, ...]:
        """Judge a sweep of one device with these processes and their GiB."""
        self.now += timedelta(seconds=10)
        processes = tuple(
            GpuProcess(row.pid, None if gib is None else gib * GIB) for row, gib in rows
        )
        sample = Sample(uuid, self.now, processes=(*processes, *unknown))
        identities = {row.pid: row for row, _ in rows}
        return self.dog.judge(self.now, {uuid: sample}, identities, self.scene)


def test_a_server_over_its_share_is_warned_with_numbers_and_a_way_out() -> None:
    """After one sample; nothing is ended yet."""
    (warning,) = Sweeps().see((who(1, ANN), 12))
    assert warning == Warn(
        "ls_ann",
        "Your server uses 12 GiB of GPU memory on GPU 0 (A100), and its share is "
        "10 GiB. Free some now: restart a kernel that you do not need, or delete "
        "tensors and call torch.cuda.empty_cache(). Otherwise its largest program is "
        "ended soon.",
    )


def test_then_its_largest_process_is_asked_then_made_to_end() -> None:
    """And the user reads which one, how much it was, and what to do."""
    sweeps = Sweeps()
    small, large = who(1, ANN), who(2, ANN)
    rows = ((small, 5), (large, 6))
    sweeps.see(*rows)
    (asked,) = sweeps.see(*rows)
    assert isinstance(asked, EndProcess)
    assert (asked.process, asked.by_force) == (large, False)
    assert asked.text == (
        "Your program python train.py (PID 20) was ended: your server used 11 GiB of "
        "GPU memory on GPU 0 (A100), and its share is 10 GiB. Use a smaller model or "
        "batch, or choose a larger share or a whole GPU."
    )
    (made,) = sweeps.see(*rows)
    assert isinstance(made, EndProcess)
    assert (made.process, made.by_force) == (large, True)
    (next_one,) = sweeps.see((small, 11))
    assert isinstance(next_one, EndProcess)
    assert (next_one.process, next_one.by_force) == (small, False)


def test_a_server_that_stays_over_its_share_is_stopped() -> None:
    """It starts a new program for each that is ended."""
    sweeps = Sweeps()
    found: list[Action] = []
    for n in range(END_SERVER_AT):
        found += sweeps.see((who(n, ANN), 12))
    assert [type(action) for action in found] == [Warn, EndServer]
    assert found[-1] == EndServer(
        "ls_ann",
        "Your server was stopped: it used 12 GiB of GPU memory on GPU 0 (A100), and "
        "its share is 10 GiB, also after a warning. Your files are safe. Start it "
        "again with a smaller model or batch, or choose a larger share or a whole GPU.",
    )


def test_a_process_that_cannot_be_ended_ends_its_server() -> None:
    """The engine refused, or it is the container's first process."""
    sweeps = Sweeps()
    sweeps.see((who(1, ANN), 12))
    (asked,) = sweeps.see((who(1, ANN), 12))
    assert isinstance(asked, EndProcess)
    sweeps.dog.could_not_end(asked)
    assert isinstance(sweeps.see((who(1, ANN), 12))[0], EndServer)

    first = Sweeps()
    first.see((who(1, ANN, inner=1), 12))
    assert isinstance(first.see((who(1, ANN, inner=1), 12))[0], EndServer)


def test_below_the_share_again_everything_is_forgotten() -> None:
    """Also that a process could not be ended: the next time begins with a warning."""
    sweeps = Sweeps()
    for _ in range(2):
        (warning,) = sweeps.see((who(1, ANN), 12))
        assert isinstance(warning, Warn)
        (asked,) = sweeps.see((who(1, ANN), 12))
        assert isinstance(asked, EndProcess)
        assert not asked.by_force
        sweeps.dog.could_not_end(asked)
        assert sweeps.see((who(1, ANN), 10)) == ()


def test_several_programs_count_together() -> None:
    """Each is below the share, the server is not."""
    rows = [(who(n, ANN), 4) for n in range(3)]
    assert [type(action) for action in Sweeps().see(*rows)] == [Warn]


def test_one_server_is_never_judged_by_what_another_uses() -> None:
    """Bob's 12 GiB are on the same device."""
    sweeps = Sweeps()
    for _ in range(END_SERVER_AT):
        for action in sweeps.see((who(1, ANN), 9), (who(2, BOB), 12)):
            assert isinstance(action, Warn | EndProcess | EndServer)
            assert action.lease_id == "ls_bob"


def test_unknown_memory_changes_nothing() -> None:
    """Neither up nor down the ladder, and a whole unknown sample neither."""
    sweeps = Sweeps()
    sweeps.see((who(1, ANN), 12))
    for _ in range(END_SERVER_AT):
        assert sweeps.see((who(1, ANN), 12), (who(2, ANN), None)) == ()
    now = sweeps.now
    blind = {"GPU-0": Sample("GPU-0", now)}
    assert sweeps.dog.judge(now, blind, {}, SHARED) == ()
    (asked,) = sweeps.see((who(1, ANN), 12))
    assert isinstance(asked, EndProcess)


def test_a_whole_device_and_a_mig_instance_have_no_cap_to_watch() -> None:
    """There is no more memory in them than was leased."""
    instance = Slot(OTHER, "MIG-1", SlotKind.MIG, GIB, "1g.10gb")
    for slot in (whole(GPU), instance):
        sweeps = Sweeps(scene(server("ann", ANN, slot)))
        for _ in range(END_SERVER_AT):
            assert sweeps.see((who(1, ANN), 39), uuid=slot.uuid) == ()


def test_two_shares_of_one_device_are_twice_the_memory() -> None:
    """And each device has its own cap."""
    sweeps = Sweeps(scene(server("ann", ANN, share(0), share(1), share(0, OTHER))))
    assert sweeps.see((who(1, ANN), 20)) == ()
    assert [type(x) for x in sweeps.see((who(1, ANN), 11), uuid="GPU-1")] == [Warn]


def test_a_pid_given_to_a_new_process_does_not_end_it() -> None:
    """Its start time is another; it takes a second sample to know it."""
    sweeps = Sweeps()
    sweeps.see((who(1, ANN, start=1), 12))
    assert sweeps.see((who(1, ANN, start=2), 12)) == ()


def test_a_server_that_is_ending_already_is_left_to_end() -> None:
    """Its processes are no intruders either."""
    ending = server("ann", ANN, share(0))
    sweeps = Sweeps(scene(Server(ending.lease.to(LeaseState.RELEASING), ANN)))
    for _ in range(END_SERVER_AT):
        assert sweeps.see((who(1, ANN), 12)) == ()


def test_a_server_that_is_gone_is_forgotten() -> None:
    """Nothing is kept about it."""
    sweeps = Sweeps()
    sweeps.see((who(1, ANN), 12))
    sweeps.scene = scene()
    sweeps.see()
    sweeps.scene = SHARED
    assert [type(action) for action in sweeps.see((who(1, ANN), 12))] == [Warn]


def test_a_program_of_the_host_is_named_to_the_admins() -> None:
    """Once it was there in two samples; then not again for an hour."""
    sweeps = Sweeps(scene())
    assert sweeps.see((who(7), 3)) == ()
    (alarm,) = sweeps.see((who(7), 3))
    assert alarm == Alarm(
        "A program of the host, process 7 (python train.py) of uid 1000, is on GPU 0 "
        "(A100) without a lease for it and holds 3 GiB. End it, or take this GPU out "
        "of the pool.",
        "GPU-0",
        who(7),
    )
    assert sweeps.see((who(7), 4)) == ()
    sweeps.now += timedelta(hours=1)
    assert [type(action) for action in sweeps.see((who(7), 4))] == [Alarm]


def test_another_intruder_is_another_alarm() -> None:
    """Also under the same PID."""
    sweeps = Sweeps(scene())
    for start in (1, 2):
        assert sweeps.see((who(7, start=start), 3)) == ()
        assert [type(x) for x in sweeps.see((who(7, start=start), 3))] == [Alarm]


def test_a_foreign_container_is_named() -> None:
    """By its name; by the start of its id if it is gone from the engine."""
    for names, shown in (({STRANGER: "notebook-7"}, "notebook-7"), ({}, STRANGER[:12])):
        sweeps = Sweeps(scene(containers=names))
        sweeps.see((who(7, STRANGER), None))
        (alarm,) = sweeps.see((who(7, STRANGER), None))
        assert isinstance(alarm, Alarm)
        assert alarm.text.startswith(f"The container {shown} is on GPU 0 (A100)")
        assert "an unknown amount of memory" in alarm.text


def test_a_server_on_a_gpu_that_it_did_not_lease_is_an_alarm() -> None:
    """Its container reaches further than it should."""
    sweeps = Sweeps(scene(server("ann", ANN, share(0))))
    sweeps.see((who(1, ANN), 1), uuid="GPU-1")
    (alarm,) = sweeps.see((who(1, ANN), 1), uuid="GPU-1")
    assert isinstance(alarm, Alarm)
    assert alarm.text.startswith("The server of ann is on GPU 1 (A100) without a lease")


@pytest.mark.parametrize(
    "bystander", [who(7, HUB), who(7, name="Xorg"), who(7, ANN), who(7, ANN, STRANGER)]
)
def test_who_may_be_there_is_no_alarm(bystander: ProcessIdentity) -> None:
    """The hub, the host's screen, the lease's own, and Docker inside of it."""
    sweeps = Sweeps()
    for _ in range(3):
        assert sweeps.see((bystander, 1)) == ()


def test_a_container_does_not_pass_for_the_hosts_screen() -> None:
    """Everybody may call a program Xorg."""
    sweeps = Sweeps(scene())
    sweeps.see((who(7, STRANGER, name="Xorg"), 1))
    assert [type(x) for x in sweeps.see((who(7, STRANGER, name="Xorg"), 1))] == [Alarm]


def test_a_process_nobody_knows_is_an_alarm_only_where_nothing_is_leased() -> None:
    """On a leased device it may be the lease's own."""
    unknown = [GpuProcess(99, GIB)]
    sweeps = Sweeps()
    for _ in range(3):
        assert sweeps.see(unknown=unknown) == ()
    sweeps = Sweeps(scene())
    sweeps.see(unknown=unknown)
    (alarm,) = sweeps.see(unknown=unknown)
    assert alarm == Alarm(
        "Somebody's process with PID 99 is on GPU 0 (A100) without a lease for it and "
        "holds 1 GiB.",
        "GPU-0",
        None,
    )


# (pid, start time, whose container, GiB): a few values, so that they meet.
rows = st.tuples(
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from([(ANN,), (BOB,), (STRANGER,), (), None]),
    st.sampled_from([None, 0, 4, 9, 11]),
)
sweeps = st.lists(st.lists(rows, max_size=4, unique_by=lambda row: row[0]), max_size=12)


@given(sweeps)
def test_nothing_is_ended_that_is_under_its_cap_unknown_or_not_the_one_seen(
    history: list[list[tuple[int, int, tuple[str, ...] | None, int | None]]],
) -> None:
    """Over any history of two servers on one device, with PIDs given again."""
    dog = Watchdog()
    before: set[tuple[int, int]] = set()
    for n, listed in enumerate(history):
        identities = {
            pid: None if whose is None else who(pid, *whose, start=start)
            for pid, start, whose, _ in listed
        }
        processes = tuple(
            GpuProcess(pid, None if gib is None else gib * GIB)
            for pid, _, _, gib in listed
        )
        now = T0 + timedelta(seconds=10 * n)
        sample = Sample("GPU-0", now, processes=processes)
        for action in dog.judge(now, {"GPU-0": sample}, identities, SHARED):
            if isinstance(action, Alarm):
                continue
            container = {"ls_ann": ANN, "ls_bob": BOB}[action.lease_id]
            used = [gib for _, _, whose, gib in listed if whose == (container,)]
            assert None not in used
            assert sum(gib or 0 for gib in used) > 10
            if isinstance(action, EndProcess):
                key = (action.process.pid, action.process.start_time)
                assert action.process.containers == (container,)
                assert key in before
            if not isinstance(action, Warn):
                assert n > 0
        before = {(pid, start) for pid, start, whose, _ in listed if whose is not None}

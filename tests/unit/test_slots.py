"""Which slots there are, and which exclude each other."""

import pytest
from gpuspawner.model import Device, Instance, Slot, SlotKind, SlotRequest, whole
from gpuspawner.slots import overlap, pick_part, read, slots_of, unknown_keys
from hypothesis import given
from hypothesis import strategies as st

GIB = 2**30
WHOLE = Device(0, "GPU-0", "A100", 40 * GIB, 0)
SHARED = Device(1, "GPU-1", "T4", 16 * GIB, 1)
SPLIT = Device(
    2,
    "GPU-2",
    "A100",
    40 * GIB,
    2,
    is_split=True,
    instances=(
        Instance("MIG-a", "3g.20gb", 20 * GIB, 1),
        Instance("MIG-b", "1g.5gb", 5 * GIB, 2),
        Instance("MIG-GPU-2/7/0", "1g.5gb", 5 * GIB, 7),  # named as before R470
    ),
)
DEVICES = [SPLIT, SHARED, WHOLE]
BY_UUID = {device.uuid: device for device in DEVICES}
SLOTS = slots_of(DEVICES, {"T4": 2})
SHARE, MIG = SlotRequest(1, SlotKind.SHARE), SlotRequest(1, SlotKind.MIG)


def shares(device: Device, n: int) -> tuple[Slot, ...]:
    return slots_of([device], {device.uuid: n})


def test_a_device_is_one_slot_or_its_shares_or_its_mig_instances() -> None:
    """By device index; memory is what a holder may use."""
    assert [(s.id, s.kind, s.memory_bytes // GIB, s.type) for s in SLOTS] == [
        ("GPU-0", SlotKind.DEVICE, 40, "A100"),
        ("GPU-1/0:2", SlotKind.SHARE, 8, "T4 1/2"),
        ("GPU-1/1:2", SlotKind.SHARE, 8, "T4 1/2"),
        ("MIG-a", SlotKind.MIG, 20, "A100 MIG 3g.20gb"),
        ("MIG-b", SlotKind.MIG, 5, "A100 MIG 1g.5gb"),
        ("MIG-GPU-2/7/0", SlotKind.MIG, 5, "A100 MIG 1g.5gb"),
    ]


def test_shares_go_by_uuid_then_index_then_name() -> None:
    """The narrower word counts; one share is the whole device."""
    assert len(slots_of([WHOLE], {"A100": 4})) == 4
    assert len(slots_of([WHOLE], {"A100": 4, "0": 3})) == 3
    assert len(slots_of([WHOLE], {"A100": 4, "0": 3, "GPU-0": 2})) == 2
    assert slots_of([WHOLE], {"A100": 4, "GPU-0": 1}) == (whole(WHOLE),)


def test_a_split_device_gives_its_instances_whatever_shares_say() -> None:
    """And one whose MIG mode is on without instances gives nothing."""
    assert slots_of([SPLIT], {"2": 4}) == SLOTS[3:]
    bare = Device(0, "GPU-0", "A100", 40 * GIB, 0, is_split=True)
    assert slots_of([bare], {}) == ()


def test_a_key_that_names_no_device_is_found() -> None:
    """So that a typing error does not pass unseen."""
    known = {"GPU-0": 2, "1": 2, "A100": 2}
    assert unknown_keys(known | {"H100": 2, "7": 2}, DEVICES) == ["7", "H100"]


@pytest.mark.parametrize("slot", SLOTS, ids=lambda slot: slot.id)
def test_a_slot_is_read_back_from_its_label(slot: Slot) -> None:
    """A lease survives the hub."""
    assert read(slot.id, BY_UUID) == slot


def test_a_label_of_a_device_that_is_gone_is_a_lost_slot() -> None:
    """It still keeps the device from others, should it come back."""
    for slot_id, kind in {
        "GPU-9": "device",
        "GPU-9/1:2": "share",
        "MIG-z": "mig",
    }.items():
        found = read(slot_id, BY_UUID)
        assert (found.id, found.kind) == (slot_id, kind)
        assert found.device.is_lost


def test_a_label_may_say_whose_a_mig_instance_is() -> None:
    """So that a device is not given away after its MIG mode was switched off."""
    assert read("GPU-2/MIG-b", BY_UUID) == read("MIG-b", BY_UUID)
    assert read("GPU-2/MIG-GPU-2/7/0", BY_UUID) == SLOTS[5]
    gone = read("GPU-0/MIG-a", BY_UUID)
    assert (gone.id, gone.kind, gone.device) == ("MIG-a", SlotKind.MIG, WHOLE)
    assert overlap(gone, whole(WHOLE))
    assert not overlap(read("MIG-z", BY_UUID), whole(WHOLE))


@pytest.mark.parametrize(
    "part",
    ["2:2", "0:1", "0:0", "-1:2", "x", "1", "1:", ":2", "1:2:3", "٣:٤", "/", "0:2/"],
)
def test_a_share_that_cannot_be_stands_for_the_whole_device(part: str) -> None:
    """Somebody holds some of it, so nobody else gets any of it."""
    found = read(f"GPU-1/{part}", BY_UUID)
    assert found == whole(SHARED)
    assert all(overlap(found, share) for share in SLOTS[1:3])


@given(st.text() | st.from_regex(r"(GPU|MIG)-[0-9a-f]*/[0-9]+:[0-9]+", fullmatch=True))
def test_any_label_is_read(label: str) -> None:
    """Nothing in a label stops the hub."""
    found = read(label, BY_UUID)
    assert overlap(found, found)
    read(f"GPU-1/{label}", BY_UUID)
    read("GPU-1/" + "9" * 5000 + ":1", BY_UUID)


def test_slots_exclude_each_other_only_on_one_device() -> None:
    """Whole and part, part and part of another division; not two parts of one."""
    split = whole(SPLIT)
    for slot in SLOTS:
        clashing = [other.id for other in SLOTS if overlap(slot, other)]
        assert clashing == [slot.id]
        assert overlap(split, slot) == overlap(slot, split) == (slot.device is SPLIT)
    halves, quarters = shares(SHARED, 2), shares(SHARED, 4)
    assert all(overlap(half, quarter) for half in halves for quarter in quarters)
    assert not overlap(quarters[0], quarters[1])


def test_the_smallest_part_that_will_do_is_given() -> None:
    """A large one stays for who needs it."""
    found = pick_part(SLOTS, SLOTS, MIG)
    assert found
    assert found[0].id == "MIG-GPU-2/7/0"
    found = pick_part(SLOTS, SLOTS, SlotRequest(1, SlotKind.MIG, "", 6 * GIB))
    assert found
    assert found[0].id == "MIG-a"
    huge = SlotRequest(1, SlotKind.MIG, "", 80 * GIB)
    assert pick_part(SLOTS, SLOTS, huge) is None


def test_of_equal_parts_one_with_the_fewest_neighbours_is_given() -> None:
    """Shares divide the memory, not the speed."""
    other = Device(3, "GPU-3", "T4", 16 * GIB, 3)
    every = [*shares(SHARED, 3), *shares(other, 3)]
    free, given = list(every), []
    while found := pick_part(free, every, SHARE):
        given.append((found[0].device.index, found[1]))
        free.remove(found[0])
    assert given == [
        (1, "GPU 1 (T4, 1/3): 3 of 3 parts of it were free"),
        (3, "GPU 3 (T4, 1/3): 3 of 3 parts of it were free"),
        (1, "GPU 1 (T4, 1/3): 2 of 3 parts of it were free"),
        (3, "GPU 3 (T4, 1/3): 2 of 3 parts of it were free"),
        (1, "GPU 1 (T4, 1/3): 1 of 3 parts of it were free"),
        (3, "GPU 3 (T4, 1/3): 1 of 3 parts of it were free"),
    ]


@given(st.permutations(SLOTS), st.sampled_from([MIG, SHARE]))
def test_the_choice_depends_on_no_order(
    slots: list[Slot], request_: SlotRequest
) -> None:
    """What NVML lists first today it may list last tomorrow."""
    assert pick_part(slots, slots, request_) == pick_part(SLOTS, SLOTS, request_)

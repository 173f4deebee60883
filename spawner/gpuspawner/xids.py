"""What the driver's error codes (XIDs) mean for a device and its user.

Source: NVIDIA's XID catalogue for Ampere and later, column "Immediate Action"
(docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html). What is ours is the
step from the catalogue's bucket to a consequence.

No code ends a lease and leaves the device fit: what costs every program on it its
context also needs a reset. A code that costs one program its context is COUNTed, as
nearly always that program is at fault (13, 31: an illegal memory access), and the
notebook server around it is as good as before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Bucket(StrEnum):
    """NVIDIA's immediate action; UNKNOWN for a code without one."""

    IGNORE = "IGNORE"
    RESTART_APP = "RESTART_APP"
    RESET_GPU = "RESET_GPU"
    RESTART_BM = "RESTART_BM"
    RESTART_VM = "RESTART_VM"
    CHECK_MECHANICALS = "CHECK_MECHANICALS"
    UPDATE_SWFW = "UPDATE_SWFW"
    CONTACT_SUPPORT = "CONTACT_SUPPORT"
    WORKFLOW = "WORKFLOW"
    UNKNOWN = "UNKNOWN"


class Consequence(StrEnum):
    """What follows for the device.

    IGNORE: kept as evidence. COUNT: the same, suspicious if it hits different users.
    DRAIN: no new lease; the present one goes on. QUARANTINE: leases end now.
    """

    IGNORE = "ignore"
    COUNT = "count"
    DRAIN = "drain"
    QUARANTINE = "quarantine"


class Cure(StrEnum):
    """What makes a device fit again.

    GONE: what was measured reads well again. RESET: a reset or a restart of the machine
    was seen. QUIET: time without more of it. ADMIN: only an admin's word.
    """

    GONE = "gone"
    RESET = "reset"
    QUIET = "quiet"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Xid:
    """A code and what follows from it.

    Attributes:
        code: The driver's number.
        bucket: See Bucket.
        consequence: See Consequence.
        cure: What makes the device fit again; GONE if nothing is wrong with it.
        what: Half a sentence, like "XID 79: it fell off the bus".
        remedy: A sentence: what the admin has to do.
    """

    code: int
    bucket: Bucket
    consequence: Consequence
    cure: Cure
    what: str
    remedy: str


CONTAINED = 94
"""A memory error that hit one program only; see `DOUBLE_BIT`."""

DOUBLE_BIT = 48
"""An uncorrectable memory error. Before Ampere it costs every program its context;
since then CONTAINED comes with it if it hit only one.
"""


def _codes(*parts: int | range) -> frozenset[int]:
    return frozenset(
        code
        for part in parts
        for code in (part if isinstance(part, range) else (part,))
    )


_COPY_ENGINES = _codes(39, 40, 41, 70, 71, 72, 75, 76, 77, 85, range(126, 136))
_DECODERS = _codes(68, 82, 83, 84, 86, 88, 89, range(96, 106), 139)
_NVLINK_5 = _codes(range(144, 151))

BUCKETS: Mapping[Bucket, frozenset[int]] = {
    Bucket.IGNORE: _codes(
        14,
        37,
        38,
        43,
        44,
        63,
        66,
        67,
        92,
        93,
        106,
        107,
        108,
        121,
        137,
        141,
        152,
        153,
        157,
        160,
        161,
    ),
    Bucket.RESTART_APP: _COPY_ENGINES
    | _DECODERS
    | {8, 11, 13, 25, 31, 32, 60, 69, 80, CONTAINED},
    Bucket.RESET_GPU: _codes(
        46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158
    ),
    Bucket.RESTART_BM: _codes(79),
    Bucket.RESTART_VM: _codes(151),
    Bucket.CHECK_MECHANICALS: _codes(54),
    Bucket.UPDATE_SWFW: _codes(78),
    Bucket.CONTACT_SUPPORT: _codes(
        range(1, 8),
        9,
        10,
        12,
        range(15, 25),
        range(26, 31),
        range(33, 37),
        42,
        47,
        range(49, 54),
        range(55, 60),
        61,
        65,
        73,
        81,
        87,
        90,
        91,
        range(111, 119),
        range(122, 126),
        138,
        142,
    ),
    Bucket.WORKFLOW: _codes(45, DOUBLE_BIT, 74, 154, 159) | _NVLINK_5,
}

_TEXTS: Mapping[int, str] = {
    8: "it stopped processing a program's work",
    11: "a program sent it an invalid stream of commands",
    13: "a program's kernel failed",
    25: "a program sent it an illegal stream of commands",
    31: "a program used GPU memory that is not its own (page fault)",
    32: "a program sent it an invalid stream of commands",
    43: "it stopped a program that had failed",
    45: "it cleaned up after a program that ended",
    46: "it stopped processing",
    48: "a memory error that could not be corrected (double bit)",
    54: "its power cable is not connected",
    60: "a video engine failed under a program",
    61: "its micro-controller stopped at a breakpoint",
    62: "its micro-controller halted",
    63: "a bad row of memory will be replaced",
    64: "a bad row of memory could not be replaced",
    69: "a program used an engine in a wrong way",
    74: "an NVLink failed",
    78: "a virtual GPU could not be started",
    79: "it fell off the bus",
    80: "data was damaged on the way to it",
    92: "many memory errors had to be corrected",
    94: "a memory error that hit one program",
    95: "a memory error that may have hit every program",
    109: "it did not switch between programs in time",
    110: "a security fault",
    119: "its system processor did not answer",
    120: "its system processor failed",
    136: "a link could not be trained",
    140: "a memory error that could not be corrected",
    142: "a video encoder failed",
    143: "it could not be initialised",
    151: "a rotation of its encryption keys failed",
    154: "what it needs to recover has changed",
    155: "an NVLink failed (found by the driver)",
    156: "a part of it was retired",
    158: "a fatal time-out",
    159: "an error between processor and GPU",
}
_NO_TEXT = "no text is known for this code"

NO_REMEDY = "Nothing has to be done."
RESET_REMEDY = (
    "Reset it while no program uses it (nvidia-smi --gpu-reset -i UUID) or restart the "
    "machine."
)
REBOOT_REMEDY = "Restart the machine."
ADMIN_REMEDY = "It needs hands; when it is repaired, override its state with a note."

_QUARANTINED = Consequence.QUARANTINE
_RULES: Mapping[Bucket, tuple[Consequence, Cure, str]] = {
    Bucket.IGNORE: (Consequence.IGNORE, Cure.GONE, NO_REMEDY),
    Bucket.RESTART_APP: (Consequence.COUNT, Cure.GONE, NO_REMEDY),
    Bucket.RESET_GPU: (_QUARANTINED, Cure.RESET, RESET_REMEDY),
    Bucket.RESTART_BM: (_QUARANTINED, Cure.RESET, REBOOT_REMEDY),
    Bucket.RESTART_VM: (_QUARANTINED, Cure.RESET, REBOOT_REMEDY),
    Bucket.CHECK_MECHANICALS: (
        _QUARANTINED,
        Cure.ADMIN,
        f"Check cables and seating. {ADMIN_REMEDY}",
    ),
    Bucket.UPDATE_SWFW: (
        _QUARANTINED,
        Cure.ADMIN,
        f"Update driver and firmware. {ADMIN_REMEDY}",
    ),
    Bucket.CONTACT_SUPPORT: (
        _QUARANTINED,
        Cure.ADMIN,
        f"Contact the maker's support. {ADMIN_REMEDY}",
    ),
    # NVLink 5, XID 154: the recovery action, which such drivers tell, decides.
    Bucket.WORKFLOW: (Consequence.IGNORE, Cure.GONE, NO_REMEDY),
    # A new driver may report what is harmless: one code that nobody has judged takes no
    # GPU away, but it is suspicious like a program's failure.
    Bucket.UNKNOWN: (Consequence.COUNT, Cure.GONE, NO_REMEDY),
}
_EXCEPTIONS: Mapping[int, tuple[Consequence, Cure, str]] = {
    # Workflow: with 94 drain and reset (health.py looks for it), else every context is
    # lost (docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt).
    DOUBLE_BIT: (_QUARANTINED, Cure.RESET, RESET_REMEDY),
    # The program must restart, others go on; the bad row is replaced at a reset.
    CONTAINED: (Consequence.DRAIN, Cure.RESET, RESET_REMEDY),
    # Whether the link came back is in bits that NVML does not give.
    74: (Consequence.DRAIN, Cure.RESET, RESET_REMEDY),
    159: (Consequence.COUNT, Cure.GONE, NO_REMEDY),
}

_BUCKET_OF = {code: bucket for bucket, codes in BUCKETS.items() for code in codes}


def _text(code: int) -> str:
    if code in _COPY_ENGINES:
        return "a copy engine failed under a program"
    if code in _DECODERS:
        return "a video or image engine failed under a program"
    if code in _NVLINK_5:
        return "an NVLink reported an error"
    return _TEXTS.get(code, _NO_TEXT)


def look_up(code: int) -> Xid:
    """Return what a code means; any number is answered."""
    bucket = _BUCKET_OF.get(code, Bucket.UNKNOWN)
    consequence, cure, remedy = _EXCEPTIONS.get(code) or _RULES[bucket]
    return Xid(code, bucket, consequence, cure, f"XID {code}: {_text(code)}", remedy)

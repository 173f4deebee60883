"""Who is refused reads what is and what to do next."""

import pytest
from gpuspawner.model import SlotKind, SlotRequest
from gpuspawner.refusals import full, never
from gpuspawner.slots import SlotState

GIB = 2**30
FREE, LEASED, RETURNED = SlotState.FREE, SlotState.LEASED, SlotState.RETURNED
FOREIGN, UNFIT = SlotState.FOREIGN, SlotState.UNFIT
MIG = SlotRequest(1, SlotKind.MIG)
SHARE = SlotRequest(1, SlotKind.SHARE, "T4 1/4")


@pytest.mark.parametrize(
    ("request_", "states", "sentence"),
    [
        (
            SlotRequest(1),
            [LEASED],
            "No GPU is free. Of 1 GPU, 1 is leased. You can start as soon as 1 more "
            "is free; until then choose CPU only, your files are the same.",
        ),
        (
            SlotRequest(4, type="A100"),
            [FREE, FREE, LEASED, LEASED, LEASED, FOREIGN, UNFIT, RETURNED],
            "Only 2 GPUs of type A100 of the 4 asked for are free. Of 8 GPUs, 3 are "
            "leased, 1 is not clean yet after its last server, 1 is used by other "
            "programs and 1 is out of service. You can start as soon as 2 more are "
            "free; until then choose CPU only, your files are the same.",
        ),
        (
            MIG,
            [RETURNED, RETURNED, FOREIGN],
            "No MIG instance is free. Of 3 MIG instances, 2 are not clean yet after "
            "their last server and 1 is used by other programs. You can start as soon "
            "as 1 more is free; until then choose CPU only, your files are the same.",
        ),
        (
            SHARE,
            [LEASED] * 4,
            "No GPU share of type T4 1/4 is free. Of 4 GPU shares, 4 are leased. You "
            "can start as soon as 1 more is free; until then choose CPU only, your "
            "files are the same.",
        ),
    ],
)
def test_who_must_wait_reads_for_what(
    request_: SlotRequest, states: list[SlotState], sentence: str
) -> None:
    """Every slot is counted once, whatever keeps it from being free."""
    assert full(request_, states) == sentence


@pytest.mark.parametrize(
    ("request_", "n_all", "n_fit", "sentence"),
    [
        (
            SlotRequest(4),
            1,
            1,
            "This machine has 1 GPU; 4 were asked for. Choose a smaller server.",
        ),
        (
            SlotRequest(2, type="H100"),
            0,
            0,
            "This machine has no whole GPU of type H100. Choose another server or CPU "
            "only, your files are the same.",
        ),
        (
            SlotRequest(1, SlotKind.MIG, "", 20 * GIB),
            0,
            0,
            "This machine has no MIG instance with 20 GiB or more. Choose another "
            "server or CPU only, your files are the same.",
        ),
        (
            SlotRequest(2, SlotKind.MIG),
            7,
            7,
            "A server gets one MIG instance; 2 were asked for. Choose a smaller "
            "server.",
        ),
        (
            SlotRequest(1),
            1,
            0,
            "The only GPU is out of service, so 1 cannot be had now; your admin sees "
            "why. Choose CPU only, your files are the same.",
        ),
        (
            SlotRequest(2),
            8,
            0,
            "All 8 GPUs are out of service, so 2 cannot be had now; your admin sees "
            "why. Choose CPU only, your files are the same.",
        ),
        (
            SlotRequest(4),
            4,
            3,
            "1 of 4 GPUs is out of service, so 4 cannot be had now; your admin sees "
            "why. Choose a smaller server or CPU only, your files are the same.",
        ),
    ],
)
def test_who_would_wait_in_vain_is_told_so(
    request_: SlotRequest, n_all: int, n_fit: int, sentence: str
) -> None:
    """And what else there is."""
    assert never(request_, n_all=n_all, n_fit=n_fit, has_gpu=True) == sentence


def test_a_machine_without_gpus_says_so() -> None:
    """It runs CPU servers."""
    assert never(SlotRequest(1), n_all=0, n_fit=0, has_gpu=False) == (
        "This machine has no GPU. Choose CPU only, your files are the same."
    )

"""What the welcome page decides and says, without torch and without a GPU."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from torchroom_welcome import check, facts, gpus, links, shm, show, tokens, wallet
from torchroom_welcome.facts import Device, Facts, Lease, Limits, TokenFacts
from torchroom_welcome.gpus import NvmlDevice, NvmlView, TorchDevice, TorchView
from torchroom_welcome.panel import Note, Panel, Table, bytes_text
from torchroom_welcome.tokens import Reading

GIB = 1 << 30
A = Device("GPU-aaaa", 3, "NVIDIA A100-SXM4-80GB", 80 * GIB)
B = Device("GPU-bbbb", 5, "NVIDIA A100-SXM4-80GB", 80 * GIB)
MIG = Device("MIG-cccc", 3, "NVIDIA A100 MIG 1g.10gb", 10 * GIB)

LEASED = Facts(user="ann", lease=Lease("ls_1", (A,)))
TWO = Facts(user="ann", lease=Lease("ls_1", (A, B)))
NO_LEASE = Facts(user="ann")

CPU_TORCH = TorchView(version="2.13.0+cpu")
CUDA_TORCH = TorchView(version="2.13.0", cuda="12.8")
NVML = NvmlView("550.1", (NvmlDevice(A.uuid, A.name, A.memory_bytes),))
NVML_BOTH = NvmlView(
    "550.1", tuple(NvmlDevice(one.uuid, one.name, one.memory_bytes) for one in (A, B))
)


def torch_with(*devices: Device) -> TorchView:
    """A CUDA build of torch that sees these; torch leaves out the prefix 'GPU-'."""
    seen = (
        TorchDevice(one.uuid.removeprefix("GPU-"), one.name, one.memory_bytes)
        for one in devices
    )
    return TorchView(version="2.13.0", cuda="12.8", devices=tuple(seen))


def raw_facts(**changes: Any) -> bytes:
    """The facts file as the hub writes it."""
    raw: dict[str, Any] = {
        "user": "ann",
        "server": "",
        "lease": {
            "id": "ls_1",
            "devices": [
                {"uuid": "GPU-a", "index": 3, "name": "A100", "memory_bytes": 80 * GIB}
            ],
        },
        "why_no_gpu": None,
        "simulated": False,
        "limits": {
            "memory_bytes": 4 * GIB,
            "shm_bytes": GIB,
            "n_cpus": 2.0,
            "pids": 4096,
        },
        "tokens": {
            "provider": "placeholder",
            "is_placeholder": True,
            "balance_microtokens": None,
            "rate_microtokens_per_hour": None,
            "note": "Tokens are not metered on this hub yet.",
        },
    }
    return json.dumps(raw | changes).encode()


def said(facts_: Facts, torch: TorchView, nvml: NvmlView) -> str:
    """All notes about GPUs in one text."""
    return " ".join(note.text for note in gpus.explain(facts_, torch, nvml))


def levels(facts_: Facts, torch: TorchView, nvml: NvmlView) -> set[str]:
    """How serious the notes about GPUs are."""
    return {note.level for note in gpus.explain(facts_, torch, nvml)}


# -------------------------------------------------------------------------- facts


def test_facts_as_the_hub_writes_them() -> None:
    """Every promised field is read."""
    found = facts.parse(raw_facts())
    assert found.user == "ann"
    assert found.problem is None
    assert found.lease == Lease("ls_1", (Device("GPU-a", 3, "A100", 80 * GIB),))
    assert found.limits == Limits(4 * GIB, GIB, 2.0, 4096)
    assert found.tokens.provider == "placeholder"


def test_a_newer_hub_may_add_fields_and_leave_limits_open() -> None:
    """Unknown keys are ignored; absent limits are no limits."""
    found = facts.parse(raw_facts(limits=None, lease=None, novelty=[1]))
    assert found.limits == Limits()
    assert found.lease is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"1" * 5_000,
        raw_facts(user=None),
        raw_facts(simulated="yes"),
        raw_facts(why_no_gpu=7),
        raw_facts(lease=[]),
        raw_facts(lease={"id": "ls_1", "devices": []}),
        raw_facts(lease={"id": "ls_1", "devices": ["GPU-a"]}),
        raw_facts(lease={"id": "ls_1", "devices": [{"uuid": "GPU-a"}]}),
        raw_facts(limits={"n_cpus": 0}),
        raw_facts(limits={"n_cpus": True}),
        raw_facts(limits={"n_cpus": float("nan")}),
        raw_facts(limits={"n_cpus": 10**400}),
        raw_facts(limits={"memory_bytes": -1}),
        raw_facts(limits={"memory_bytes": 1.5}),
        raw_facts(limits={"memory_bytes": 10**400}),
        raw_facts(tokens={"provider": "facts", "balance_microtokens": 1.0}),
        raw_facts(tokens={"provider": "facts", "balance_microtokens": True}),
        raw_facts(tokens={"provider": "facts", "rate_microtokens_per_hour": -1}),
        raw_facts(tokens={"balance_microtokens": 1}),
        raw_facts(tokens={"provider": "torchroom", "url": 1}),
    ],
    ids=lambda data: data[:20].decode(errors="replace") if len(data) < 50 else None,
)
def test_garbled_facts_are_explained(
    data: bytes, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback, no half-read facts, and a panel all the same."""
    with pytest.raises(facts.FactsError, match="garbled"):
        facts.parse(data)
    path = tmp_path / "server.json"
    path.write_bytes(data)
    monkeypatch.setenv(facts.PATH_VARIABLE, str(path))
    found = facts.load()
    assert found == Facts(problem=found.problem)
    assert found.problem is not None
    assert found.problem in repr(show.tokens())
    assert found.problem in repr(show.limits())


def test_facts_that_cannot_be_read_are_explained(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing, a folder, too long: a sentence for each."""
    monkeypatch.setenv(facts.PATH_VARIABLE, str(tmp_path / "none.json"))
    assert "not a Torchroom server" in str(facts.load().problem)
    assert "cannot be read" in str(facts.load(str(tmp_path)).problem)
    endless = tmp_path / "endless.json"
    endless.write_bytes(b" " * (facts.FILE_BYTES_MAX + 1))
    assert "too long" in str(facts.load(str(endless)).problem)


# --------------------------------------------------------------------------- GPUs


def test_no_lease_repeats_the_hubs_reason() -> None:
    """A CPU server says why, in the hub's words, and how to get a GPU."""
    why = "You chose the size 'CPU only'."
    text = said(Facts(user="ann", why_no_gpu=why), CPU_TORCH, NvmlView(problem="x"))
    assert why in text
    assert "choose a size with a GPU" in text


def test_no_lease_and_no_reason_is_still_explained() -> None:
    """Also when the hub gives no reason."""
    assert "without a GPU" in said(NO_LEASE, CPU_TORCH, NvmlView(problem="x"))


@pytest.mark.parametrize(
    ("torch", "nvml"), [(torch_with(A), NvmlView()), (CPU_TORCH, NVML)]
)
def test_a_gpu_without_a_lease_is_reported(torch: TorchView, nvml: NvmlView) -> None:
    """A GPU that leaks into a CPU server does not pass for one's own."""
    assert "not leased to you" in said(NO_LEASE, torch, nvml)
    assert "bad" in levels(NO_LEASE, torch, nvml)


@pytest.mark.parametrize(
    ("torch", "nvml"), [(torch_with(A, B), NVML), (torch_with(A), NVML_BOTH)]
)
def test_a_gpu_beside_the_lease_is_reported(torch: TorchView, nvml: NvmlView) -> None:
    """Neither does a GPU more than was leased."""
    assert "not leased to you" in said(LEASED, torch, nvml)


def test_leased_and_seen_is_good() -> None:
    """One GPU, two GPUs: ready, nothing else to say."""
    assert levels(LEASED, torch_with(A), NVML) == {"good"}
    assert levels(TWO, torch_with(A, B), NVML_BOTH) == {"good"}
    assert "All 2 GPUs" in said(TWO, torch_with(A, B), NVML_BOTH)


def test_cpu_build_on_simulated_gpus_is_as_it_should_be() -> None:
    """The sentence students of a trial installation read; nothing is their fault."""
    simulated = Facts(user="ann", lease=Lease("ls_1", (A,)), simulated=True)
    assert (
        "NVML sees NVIDIA A100-SXM4-80GB (simulated); this PyTorch is a CPU build, so "
        "computations run on the CPU." in said(simulated, CPU_TORCH, NVML)
    )
    assert levels(simulated, CPU_TORCH, NVML) == {"info"}
    assert "SIMULATED GPUs" in gpus.banner(simulated)[0].text
    assert gpus.banner(LEASED) == []


def test_cpu_build_on_a_real_gpu_is_a_wrong_image() -> None:
    """The GPU is paid for but cannot be used: that is bad, with a way out."""
    text = said(LEASED, CPU_TORCH, NVML)
    assert "CPU build" in text
    assert "(simulated)" not in text
    assert "Choose an image" in text
    assert levels(LEASED, CPU_TORCH, NVML) == {"bad"}


def test_equal_gpus_are_counted() -> None:
    """Eight lines for eight equal GPUs would hide the sentence."""
    assert f"NVML sees 2 x {A.name};" in said(TWO, CPU_TORCH, NVML_BOTH)


@pytest.mark.parametrize(
    ("problem", "advice"),
    [
        ("Unknown Error", "stop and start the server"),
        ("Insufficient Permissions", "stop and start the server"),
        ("NVML Shared Library Not Found", "stop and start the server"),
        ("GPU is lost", "tell your instructor"),
        ("RM has detected an NVML/RM version mismatch.", "driver was updated"),
    ],
)
def test_nvml_failure_says_what_to_do(problem: str, advice: str) -> None:
    """NVML's own words, as people search for them, and the next step."""
    text = said(LEASED, CUDA_TORCH, NvmlView(problem=problem))
    assert f"Failed to initialize NVML: {problem}" in text
    assert advice in text


def test_simulated_gpus_need_no_driver() -> None:
    """Without the stand-in library in the container nothing is broken."""
    simulated = Facts(user="ann", lease=Lease("ls_1", (A,)), simulated=True)
    nvml = NvmlView(problem="NVML Shared Library Not Found")
    assert levels(simulated, CPU_TORCH, nvml) == {"info"}
    assert f"Leased: {A.name} (simulated);" in said(simulated, CPU_TORCH, nvml)


def test_an_image_without_pynvml_is_no_fault() -> None:
    """The GPU works without it."""
    nvml = NvmlView(problem=gpus.NO_PYNVML)
    assert levels(LEASED, torch_with(A), nvml) == {"info", "good"}


def test_torch_missing() -> None:
    """No PyTorch in this kernel: what to choose instead."""
    text = said(LEASED, TorchView(problem="No module named 'torch'"), NVML)
    assert "No module named 'torch'" in text
    assert "Change Kernel" in text


def test_cuda_build_that_finds_no_gpu_repeats_torchs_reason() -> None:
    """A driver that is too old, for example."""
    torch = TorchView(version="2.13.0", cuda="13.0", problem="CUDA driver too old")
    assert "It says: CUDA driver too old." in said(LEASED, torch, NVML)


def test_fewer_gpus_in_torch_than_leased() -> None:
    """CUDA_VISIBLE_DEVICES is the usual reason."""
    assert "CUDA_VISIBLE_DEVICES" in said(TWO, torch_with(A), NVML_BOTH)


def test_a_leased_gpu_that_nvml_does_not_see() -> None:
    """It is named by its index."""
    assert "NVML does not see GPU 5" in said(TWO, torch_with(A, B), NVML)


def test_the_parent_of_a_mig_instance_is_not_stray() -> None:
    """NVML lists the whole GPU around a leased instance."""
    leased = Facts(user="ann", lease=Lease("ls_1", (MIG,)))
    nvml = NvmlView("550.1", (*NVML.devices, NvmlDevice("MIG-cccc", "MIG", GIB)))
    assert levels(leased, torch_with(MIG), nvml) == {"good"}


def test_gpu_table_shows_index_and_uuid() -> None:
    """People are shown the index, the UUID is the identity, torch has its own count."""
    found = gpus.table(TWO, torch_with(B, A), NVML_BOTH)
    assert found is not None
    assert found.rows == (
        ("3", A.name, "80 GiB", "cuda:1", "GPU-aaaa"),
        ("5", B.name, "80 GiB", "cuda:0", "GPU-bbbb"),
    )
    assert gpus.table(NO_LEASE, CPU_TORCH, NvmlView()) is None


def test_without_facts_the_page_shows_what_it_can() -> None:
    """Outside a hub: what torch sees, and no talk of a lease."""
    nowhere = Facts(problem="There is no facts file.")
    assert "There is no facts file." in said(nowhere, torch_with(A), NVML)
    assert "sees 1 GPU " in said(nowhere, torch_with(A), NVML)
    assert "sees no GPU" in said(nowhere, CPU_TORCH, NvmlView(problem="x"))
    found = gpus.table(nowhere, torch_with(A), NVML)
    assert found is not None
    assert len(found.rows) == 1


def test_versions_say_cpu_build() -> None:
    """CUDA is never just left out."""
    rows = dict(gpus.versions(CPU_TORCH, NvmlView(), "3.11.7"))
    assert "CPU build" in rows["CUDA"]
    assert dict(gpus.versions(TorchView(), NVML, "3.11.7")) == {
        "Python": "3.11.7",
        "PyTorch": "not found",
        "NVIDIA driver": "550.1",
    }


def test_a_file_named_torch_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The student's own torch.py hides PyTorch."""
    impostor = ModuleType("torch")
    impostor.__file__ = "/home/ann/torch.py"
    monkeypatch.setitem(sys.modules, "torch", impostor)
    view = gpus.look_torch()
    assert view.version is None
    assert "/home/ann/torch.py hides PyTorch" in gpus.torch_missing(view)


def test_torch_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page still shows."""
    monkeypatch.setitem(sys.modules, "torch", None)
    for page in (show.hello, show.check):
        assert "PyTorch cannot be used" in repr(page())


# -------------------------------------------------------------------- NVML, links


NVML_QUESTIONS = (
    "nvmlDeviceGetPciInfo",
    "nvmlDeviceGetTopologyCommonAncestor",
    "nvmlDeviceGetP2PStatus",
    "nvmlDeviceGetNvLinkState",
    "nvmlDeviceGetNvLinkRemotePciInfo",
    "nvmlDeviceGetNvLinkRemoteDeviceType",
)


class NvmlError(Exception):
    """Stands for pynvml.NVMLError."""


def fake_nvml(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> Any:
    """Put a pynvml with these functions in place; the rest is 'not supported'."""

    def refuse(*_: object) -> None:
        raise NvmlError("Not Supported")

    functions = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        **functions,
    }
    module: Any = SimpleNamespace(
        NVMLError=NvmlError,
        NVML_FEATURE_ENABLED=1,
        NVML_NVLINK_MAX_LINKS=18,
        NVML_P2P_STATUS_OK=0,
        **(dict.fromkeys(NVML_QUESTIONS, refuse) | functions),
    )
    monkeypatch.setitem(sys.modules, "pynvml", cast(ModuleType, module))
    return module


def test_nvml_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML's error becomes a value."""

    def fail() -> None:
        raise NvmlError("Unknown Error")

    fake_nvml(monkeypatch, nvmlInit=fail)
    assert gpus.look_nvml() == NvmlView(problem="Unknown Error")


def test_nvml_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does its absence."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus.look_nvml() == NvmlView(problem=gpus.NO_PYNVML)


def test_nvml_of_old_speaks_bytes_and_is_asked_for_mig(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Old bindings return bytes; counting does not show a MIG instance."""
    fake_nvml(
        monkeypatch,
        nvmlSystemGetDriverVersion=lambda: b"470.1",
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda _: "GPU-aaaa",
        nvmlDeviceGetUUID=str.encode,
        nvmlDeviceGetName=lambda _: b"A100",
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=GIB),
    )
    assert gpus.look_nvml((MIG,)) == NvmlView(
        "470.1",
        (NvmlDevice("GPU-aaaa", "A100", GIB), NvmlDevice(MIG.uuid, "A100", GIB)),
    )


@pytest.mark.parametrize(
    ("link", "name"),
    [
        (links.Link(A, B, nvlinks=12), "NVLink, 12 links"),
        (links.Link(A, B, nvlinks=1, pcie_level=20), "NVLink, 1 link"),
        (links.Link(A, B, nvlinks=18, through_nvswitch=True), "NVSwitch, 18 links"),
        (links.Link(A, B, pcie_level=10), "PCIe, one switch (PIX)"),
        (links.Link(A, B, pcie_level=50), "PCIe, between CPU sockets (SYS)"),
        (links.Link(A, B, pcie_level=7), "PCIe, level 7"),
        (links.Link(A, B), "not known"),
    ],
)
def test_link_names(link: links.Link, name: str) -> None:
    """The fastest way names the link."""
    assert links.name(link) == name


def pci(bus: int) -> Any:
    """A place on the PCI bus."""
    return SimpleNamespace(domain=0, bus=bus, device=0)


def test_links_are_read_and_direct_ones_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three links up: two to the other GPU, one to a GPU of somebody else."""
    fake_nvml(
        monkeypatch,
        nvmlDeviceGetPciInfo=lambda h: pci({A.uuid: 1, B.uuid: 2}[h]),
        nvmlDeviceGetNvLinkState=lambda _, number: int(number < 3),
        nvmlDeviceGetNvLinkRemoteDeviceType=lambda *_: 0,
        nvmlDeviceGetNvLinkRemotePciInfo=lambda _, number: pci([2, 2, 9][number]),
        nvmlDeviceGetTopologyCommonAncestor=lambda *_: 40,
        nvmlDeviceGetP2PStatus=lambda *_: 0,
    )
    (found,) = links.look_links((A, B))
    assert found == links.Link(A, B, nvlinks=2, pcie_level=40, peer_access=True)


def test_links_to_a_switch_count_on_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The side with fewer links sets the pace."""
    fake_nvml(
        monkeypatch,
        nvmlDeviceGetNvLinkState=lambda h, n: int(n < {A.uuid: 18, B.uuid: 12}[h]),
        nvmlDeviceGetNvLinkRemoteDeviceType=lambda *_: 2,
    )
    (found,) = links.look_links((A, B))
    assert found == links.Link(A, B, nvlinks=12, through_nvswitch=True)


def test_gpus_that_tell_nothing_about_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """'Not supported' is an answer."""
    fake_nvml(monkeypatch)
    (found,) = links.look_links((A, B))
    assert found == links.Link(A, B)
    assert links.table((found,)).rows == (
        ("GPU 3 and GPU 5", "not known", "not known"),
    )


# ------------------------------------------------------------------- matrix check


def test_a_gpu_that_is_right_and_fast() -> None:
    """The ratio is the CPU's seconds by the GPU's."""
    (note,) = check.verdict(
        [check.Measured("CPU", 0.2), check.Measured("cuda:0", 0.001, error=3e-4)]
    )
    assert note.level == "good"
    assert "200.0 times as fast" in note.text


@pytest.mark.parametrize("error", [0.1, float("nan"), float("inf")])
def test_a_gpu_that_computes_wrong(error: float) -> None:
    """NaN is not right, whatever it is compared with."""
    (note,) = check.verdict(
        [check.Measured("CPU", 0.2), check.Measured("cuda:0", 0.001, error=error)]
    )
    assert note.level == "bad"
    assert "wrong" in note.text


def test_cpu_only_says_so() -> None:
    """A figure for the CPU, and no comparison."""
    results = [check.Measured("CPU", 0.1)]
    assert "CPU only" in check.verdict(results)[0].text
    assert check.rows(results, size=1000) == (("CPU", "100.00 ms, 20 GFLOP/s"),)


@pytest.mark.parametrize(
    ("problem", "advice"),
    [
        ("CUDA out of memory. Tried to allocate 1 GiB", "Shut Down All Kernels"),
        ("CUDA error: no kernel image is available", "another image"),
        ("CUDA error: unspecified launch failure", "stop and start"),
    ],
)
def test_cuda_errors_come_with_a_next_step(problem: str, advice: str) -> None:
    """One GPU that fails does not hide the others."""
    good = check.Measured("cuda:1", 0.01)
    bad = check.Measured("cuda:0", 0.0, problem=problem)
    notes = check.verdict([check.Measured("CPU", 0.1), bad, good])
    assert problem in notes[0].text
    assert advice in notes[0].text
    assert notes[1].level == "good"


# ------------------------------------------------- shared memory, limits, tokens


@pytest.mark.parametrize(
    ("total", "promised", "level"),
    [
        (GIB, GIB, "good"),
        (GIB, None, "good"),
        (GIB - 4096, GIB, "good"),
        (64 << 20, GIB, "warn"),
        (64 << 20, None, "warn"),
        (64 << 20, 64 << 20, "warn"),
    ],
)
def test_shared_memory(total: int, promised: int | None, level: str) -> None:
    """Less than promised, or too little for workers, is worth a warning."""
    assert shm.verdict(total, promised).level == level


@pytest.mark.parametrize(
    ("microtokens", "text"),
    [
        (0, "0 tokens"),
        (1, "0.000001 tokens"),
        (1_000_000, "1 token"),
        (-1_000_000, "-1 tokens"),
        (-500_000, "-0.5 tokens"),
        (1_234_500_000, "1,234.5 tokens"),
        (2**63 - 1, "9,223,372,036,854.775807 tokens"),
    ],
)
def test_tokens_are_shown_exactly(microtokens: int, text: str) -> None:
    """Not one microtoken is rounded away."""
    assert tokens.tokens_text(microtokens) == text


def test_placeholder_says_so_and_shows_no_amounts() -> None:
    """Also if the facts carry numbers beside it."""
    reading = tokens.meter_for(
        TokenFacts("placeholder", True, 5_000_000, 1, "Not metered yet.")
    ).read()
    assert reading.note.text == "Placeholder: Not metered yet."
    assert dict(tokens.rows(reading)) == {
        "Balance": "not known",
        "Burn rate": "not known",
    }


def test_balance_burn_rate_and_how_long_it_lasts() -> None:
    """The rate is exact; the time left is rounded down."""
    meter = tokens.meter_for(TokenFacts("facts", False, 10_000_000, 3_600_001))
    assert dict(tokens.rows(meter.read())) == {
        "Balance": "10 tokens",
        "Burn rate": "3.600001 tokens per hour",
        "Lasts for": "2 h 46 min",
    }


def test_a_free_server_lasts_for_ever() -> None:
    """No division by a rate of zero; a debt lasts for no time."""
    free = tokens.meter_for(TokenFacts("facts", False, 10_000_000, 0))
    assert dict(tokens.rows(free.read())) == {
        "Balance": "10 tokens",
        "Burn rate": "free",
    }
    debt = tokens.meter_for(TokenFacts("facts", False, -1, 1))
    assert dict(tokens.rows(debt.read()))["Lasts for"] == "less than a minute"


def test_an_unknown_provider_shows_no_amounts() -> None:
    """A number from an unknown source would be a guess."""
    reading = tokens.meter_for(TokenFacts("bank", False, 1, 1)).read()
    assert reading.balance_microtokens is None
    assert "bank" in reading.note.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "less than a minute"),
        (3_599, "59 min"),
        (12_000, "3 h 20 min"),
        (172_800, "2 d 0 h"),
    ],
)
def test_durations(seconds: int, text: str) -> None:
    """Whole units, rounded down."""
    assert tokens.duration_text(seconds) == text


# ----------------------------------------------------------------------- the ledger


@dataclass
class Ledger:
    """A ledger's address, what it answers, and what it was asked."""

    url: str = ""
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def read(self, *, at_start: int = 7_000_000, rate: int = 3_600_000) -> Reading:
        """One look at the meter of a server that was told of this ledger."""
        known = TokenFacts("torchroom", False, at_start, rate, "", self.url)
        return tokens.meter_for(known).read()


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger on this machine, and a server's token in the environment."""
    fake = Ledger()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(fake.status)
            for name, value in fake.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(fake.body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    monkeypatch.setenv(wallet.TOKEN_VARIABLE, "of-this-server")
    # A proxy that does not exist: whoever asks it gets no answer.
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}/services/torchroom/api/v1"
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        yield fake
        server.shutdown()
        thread.join()


def answer(**changes: object) -> bytes:
    """What the ledger says of a user; it may say more than is shown."""
    raw: dict[str, object] = {
        "user": "ann",
        "spendable": 12_345_678,
        "microtokens_per_hour": 3_600_000,
        "seconds_left": 12_345,
        "novelty": [1],
    }
    return json.dumps(raw | changes).encode()


def test_the_ledger_is_asked_at_every_look(ledger: Ledger) -> None:
    """With the server's own token, past any proxy; the figures are those of now."""
    ledger.body = answer()
    assert dict(tokens.rows(ledger.read())) == {
        "Balance": "12.345678 tokens",
        "Burn rate": "3.6 tokens per hour",
        "Lasts for": "3 h 25 min",
    }
    ledger.body = answer(spendable=1)
    reading = ledger.read()
    assert reading.balance_microtokens == 1
    assert reading.note.text.startswith("As of now.")
    asked = ("/services/torchroom/api/v1/me", "token of-this-server")
    assert ledger.asked == [asked, asked]


def test_other_servers_of_the_user_burn_the_same_balance(ledger: Ledger) -> None:
    """This server's rate, and that of all, which the time left follows."""
    ledger.body = answer(microtokens_per_hour=10_000_000, seconds_left=60)
    shown = dict(tokens.rows(ledger.read()))
    assert shown["Burn rate"] == "3.6 tokens per hour"
    assert shown["All your servers"] == "10 tokens per hour"
    assert shown["Lasts for"] == "1 min"


def test_a_free_server_shows_no_end(ledger: Ledger) -> None:
    """Nothing is burned, so nothing runs out."""
    ledger.body = answer(microtokens_per_hour=0, seconds_left=None)
    shown = dict(tokens.rows(ledger.read(rate=0)))
    assert shown == {"Balance": "12.345678 tokens", "Burn rate": "free"}


def as_of_the_start(reading: Reading, why: str) -> bool:
    """Does it show the figures of the start, and says so and why?"""
    figures = reading.balance_microtokens, reading.rate_microtokens_per_hour
    text = reading.note.text
    known = figures == (7_000_000, 3_600_000) and reading.seconds_left == 7_000
    return known and text.startswith("As of the start of this server: ") and why in text


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (401, "stop and start"),
        (403, "stop and start"),
        (404, "status 404"),
        (302, "status 302"),
        (503, "status 503"),
    ],
)
def test_a_ledger_that_says_no(ledger: Ledger, status: int, why: str) -> None:
    """Its status is told, a redirect is not followed, nothing is guessed."""
    ledger.status, ledger.body = status, answer()
    ledger.headers = {"Location": f"{ledger.url}/elsewhere"}
    assert as_of_the_start(ledger.read(), why)
    assert len(ledger.asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"<html>",
        b"[" * 100_000,
        b" " * (wallet.ANSWER_BYTES_MAX + 1),
        answer(spendable=None),
        answer(spendable=1.0),
        answer(spendable=True),
        answer(spendable=-1),
        answer(spendable=2**63),
        answer(microtokens_per_hour="1"),
        answer(seconds_left="1"),
    ],
    ids=lambda body: body[:60].decode(),
)
def test_a_garbled_answer_is_no_figure(ledger: Ledger, body: bytes) -> None:
    """No half-read wallet, and no float near money."""
    ledger.body = body
    assert as_of_the_start(ledger.read(), "garbled")


def test_a_ledger_that_is_not_there(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens, nobody answers, no address, no token: one sentence each."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ledger.url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(wallet.ask, "__kwdefaults__", {"timeout_s": 0.05})
        assert as_of_the_start(ledger.read(), "does not answer")
    assert as_of_the_start(ledger.read(), "does not answer")
    for url in ("", "/me", "file:///etc/passwd", "http://[", "http://:x/", "http://"):
        ledger.url = url
        assert as_of_the_start(ledger.read(), "the "), url
    ledger.url = "http://127.0.0.1:9"
    monkeypatch.setenv(wallet.TOKEN_VARIABLE, "two\nlines")
    assert as_of_the_start(ledger.read(), "does not answer")
    monkeypatch.delenv(wallet.TOKEN_VARIABLE)
    assert as_of_the_start(ledger.read(), "no JUPYTERHUB_API_TOKEN")


def test_without_figures_of_the_start_none_are_shown(ledger: Ledger) -> None:
    """The hub could not ask the ledger either: not known, never zero."""
    ledger.status = 503
    known = TokenFacts("torchroom", False, None, None, "", ledger.url)
    assert dict(tokens.rows(tokens.meter_for(known).read())) == {
        "Balance": "not known",
        "Burn rate": "not known",
    }
    ledger.status, ledger.body = 200, answer()
    assert dict(tokens.rows(tokens.meter_for(known).read()))["Burn rate"] == (
        "3.6 tokens per hour"
    )


# ------------------------------------------------------------------------- panels


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1 << 30, "1 GiB"), (3 << 29, "1.5 GiB")],
)
def test_bytes(count: int, text: str) -> None:
    """Binary units, one digit at most."""
    assert bytes_text(count) == text


def test_a_panel_is_readable_as_text_and_safe_as_html() -> None:
    """Nothing from the facts becomes markup; backticks become code."""
    panel = Panel(
        "Hi <b>",
        rows=(("User", "<script>"),),
        table=Table(("GPU", "Name"), (("3", "A&B"),)),
        notes=(Note("warn", "Use `x`"), Note("banner", "SIMULATED")),
    )
    html = panel._repr_html_()
    assert "<script>" not in html
    assert "Hi &lt;b&gt;" in html
    assert "A&amp;B" in html
    assert "<code>x</code>" in html
    text = repr(panel).splitlines()
    assert text[1] == "  ▲ SIMULATED"
    assert "  User  <script>" in text
    assert "  3    A&B" in text
    assert text[-1] == "  ! Use `x`"


def test_the_unforeseen_becomes_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A student never reads a traceback."""

    def fail() -> Facts:
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(show, "load", fail)
    for page in (show.hello, show.gpus, show.links, show.limits, show.tokens):
        assert "RuntimeError: nobody thought of this" in repr(page())


def test_limits_warn_of_more_threads_than_cpus(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch counts the machine's CPUs, not the server's."""
    path = tmp_path / "server.json"
    path.write_bytes(raw_facts())
    monkeypatch.setenv(facts.PATH_VARIABLE, str(path))
    monkeypatch.setattr(
        gpus, "look_torch", lambda: TorchView(version="2.13.0", threads=64)
    )
    text = repr(show.limits())
    assert "torch.set_num_threads(2)" in text
    assert "4 GiB" in text
    assert "4,096" in text

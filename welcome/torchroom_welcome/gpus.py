"""What PyTorch and NVML see, and what to tell the student about it.

``look_torch`` and ``look_nvml`` do the I/O and never raise; ``explain`` and ``table``
decide from plain values.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torchroom_welcome.facts import Device, Facts, Lease
from torchroom_welcome.panel import Note, Table, bytes_text

STRAY = (
    "a GPU can be seen from here that is not leased to you. Please do not use it, and "
    "tell your instructor."
)
RESTART = (
    "Save your work, then stop and start the server: File ▸ Hub Control Panel ▸ "
    "Stop My Server, then Start."
)
CHOOSE_GPU = (
    "To get a GPU: File ▸ Hub Control Panel ▸ Stop My Server, then start it again "
    "and choose a size with a GPU."
)
CUDNN_9 = 90000  # from here on its integer has one more digit for the minor version
NO_PYNVML = "nvidia-ml-py is not in this image"


@dataclass(frozen=True)
class TorchDevice:
    """A GPU as PyTorch sees it; ``uuid`` is '' where this PyTorch cannot tell."""

    uuid: str
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class TorchView:
    """PyTorch as found. ``cuda`` is None for a CPU build, ``version`` if absent."""

    version: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    devices: tuple[TorchDevice, ...] = ()
    threads: int = 1
    problem: str | None = None


@dataclass(frozen=True)
class NvmlDevice:
    """A GPU (or MIG instance) as NVML sees it."""

    uuid: str
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class NvmlView:
    """NVML as found, or ``problem``: NVML's own words for why it failed."""

    driver: str | None = None
    devices: tuple[NvmlDevice, ...] = ()
    problem: str | None = None


# --- looking -----------------------------------------------------------------------


def look_torch() -> TorchView:
    """What this kernel's PyTorch sees; initialises CUDA if there is a GPU."""
    try:
        # PyTorch warns when NumPy is absent; nothing on this page needs NumPy.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch: Any = import_module("torch")
    except ImportError as error:
        return TorchView(problem=str(error))
    except OSError as error:  # a shared library of the wheel is missing or too new
        return TorchView(problem=f"PyTorch is installed but does not load: {error}")
    if not hasattr(torch, "__version__"):
        where = getattr(torch, "__file__", None) or "a folder named torch"
        return TorchView(problem=f"{where} hides PyTorch: rename it")
    version, cuda = str(torch.__version__), torch.version.cuda
    threads = int(torch.get_num_threads())
    if cuda is None:
        return TorchView(version, threads=threads)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            usable = torch.cuda.is_available()
            devices = _torch_devices(torch) if usable else ()
            problem = None
        except RuntimeError as error:
            devices, problem = (), first_line(str(error))
    if not devices and problem is None:
        # PyTorch says why CUDA is not available in a warning, if at all.
        said = [first_line(str(one.message)) for one in caught]
        problem = next((text for text in said if "CUDA" in text), None)
    cudnn = torch.backends.cudnn.version()
    dotted = cudnn and _dotted(cudnn)
    return TorchView(version, cuda, dotted, devices, threads, problem)


def _torch_devices(torch: Any) -> tuple[TorchDevice, ...]:
    found = []
    for position in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(position)
        uuid = str(getattr(properties, "uuid", ""))
        found.append(TorchDevice(uuid, properties.name, properties.total_memory))
    return tuple(found)


def _dotted(cudnn: int) -> str:
    """The version from cuDNN's integer: 8907 -> '8.9.7', 91002 -> '9.10.2'."""
    major = 10000 if cudnn >= CUDNN_9 else 1000
    return f"{cudnn // major}.{cudnn % major // 100}.{cudnn % 100}"


class NvmlUnavailable(Exception):
    """NVML cannot be used; the message is NVML's own, or NO_PYNVML."""


@contextmanager
def nvml_session() -> Iterator[Any]:
    """Yield pynvml, initialised; NVML's errors come out as NvmlUnavailable."""
    try:
        pynvml: Any = import_module("pynvml")
    except ImportError:
        raise NvmlUnavailable(NO_PYNVML) from None
    try:
        pynvml.nvmlInit()
        try:
            yield pynvml
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(str(error)) from None


def look_nvml(leased: tuple[Device, ...] = ()) -> NvmlView:
    """Every GPU that NVML shows in here, and leased MIG instances by their UUID."""
    try:
        with nvml_session() as nvml:
            driver = _text(nvml.nvmlSystemGetDriverVersion())
            handles = [
                nvml.nvmlDeviceGetHandleByIndex(position)
                for position in range(nvml.nvmlDeviceGetCount())
            ]
            # Counting shows whole GPUs only; a MIG instance must be asked for.
            handles += [
                nvml.nvmlDeviceGetHandleByUUID(device.uuid)
                for device in leased
                if device.uuid.startswith("MIG-")
            ]
            return NvmlView(driver, tuple(_nvml_device(nvml, h) for h in handles))
    except NvmlUnavailable as error:
        return NvmlView(problem=str(error))


def _nvml_device(nvml: Any, handle: Any) -> NvmlDevice:
    return NvmlDevice(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _text(value: Any) -> str:
    # Older releases of nvidia-ml-py return bytes.
    return value.decode() if isinstance(value, bytes) else str(value)


def first_line(text: str) -> str:
    """The first line that says something; CUDA errors go on for a page."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


# --- deciding ----------------------------------------------------------------------


def versions(torch: TorchView, nvml: NvmlView, python: str) -> list[tuple[str, str]]:
    """The software rows; says 'CPU build' rather than leaving CUDA out."""
    rows = [("Python", python), ("PyTorch", torch.version or "not found")]
    if torch.version:
        rows.append(("CUDA", torch.cuda or "none (this PyTorch is a CPU build)"))
    if torch.cudnn:
        rows.append(("cuDNN", torch.cudnn))
    if nvml.driver:
        rows.append(("NVIDIA driver", nvml.driver))
    return rows


def banner(facts: Facts) -> list[Note]:
    """The banner that must stand wherever simulated GPUs are shown."""
    if not facts.simulated:
        return []
    return [
        Note("banner", "SIMULATED GPUs: made up for trying things out, not hardware.")
    ]


def table(facts: Facts, torch: TorchView, nvml: NvmlView) -> Table | None:
    """One row per leased GPU; without facts, one per GPU that can be seen."""
    if facts.lease is not None:
        places = {_bare(one.uuid): i for i, one in enumerate(torch.devices)}
        return Table(
            ("GPU", "Name", "Memory", "In PyTorch", "UUID"),
            tuple(
                (
                    str(one.index),
                    one.name,
                    bytes_text(one.memory_bytes),
                    f"cuda:{places[_bare(one.uuid)]}"
                    if _bare(one.uuid) in places
                    else "-",
                    one.uuid,
                )
                for one in facts.lease.devices
            ),
        )
    if facts.problem and (torch.devices or nvml.devices):
        seen: tuple[Any, ...] = torch.devices or nvml.devices
        return Table(
            ("Name", "Memory", "UUID"),
            tuple((one.name, bytes_text(one.memory_bytes), one.uuid) for one in seen),
        )
    return None


def _bare(uuid: str) -> str:
    """PyTorch leaves out NVML's prefix 'GPU-'."""
    return uuid.lower().removeprefix("gpu-")


def explain(facts: Facts, torch: TorchView, nvml: NvmlView) -> list[Note]:
    """What the student must know about GPUs here; at least one note, no jargon."""
    if facts.problem:
        return [Note("warn", facts.problem), *_without_facts(torch)]
    if facts.lease is None:
        return _no_lease(facts, torch, nvml)
    lease, simulated = facts.lease, facts.simulated
    notes = [
        _nvml_note(lease, nvml, simulated),
        _stray_note(lease, torch, nvml),
        _torch_note(lease, torch, nvml, simulated),
    ]
    return [note for note in notes if note is not None]


def _without_facts(torch: TorchView) -> list[Note]:
    if torch.devices:
        n = len(torch.devices)
        return [Note("good", f"PyTorch sees {n} {_gpus(n)} and can compute there.")]
    return [Note("info", "PyTorch sees no GPU; computations run on the CPU.")]


def _no_lease(facts: Facts, torch: TorchView, nvml: NvmlView) -> list[Note]:
    why = facts.why_no_gpu or "This server was started without a GPU."
    notes = [
        Note("info", f"{why} Everything here works on the CPU, only slower."),
        Note("info", CHOOSE_GPU),
    ]
    if torch.devices or nvml.devices:
        notes.append(Note("bad", f"Yet {STRAY}"))
    return notes


def _stray_note(lease: Lease, torch: TorchView, nvml: NvmlView) -> Note | None:
    # Around a MIG instance NVML also shows the GPU that it is a part of.
    if any(one.uuid.startswith("MIG-") for one in lease.devices):
        return None
    leased = {_bare(one.uuid) for one in lease.devices}
    stray = any(_bare(one.uuid) not in leased for one in nvml.devices)
    if stray or len(torch.devices) > len(leased):
        return Note("bad", f"Beside your lease, {STRAY}")
    return None


def _nvml_note(lease: Lease, nvml: NvmlView, simulated: bool) -> Note | None:
    if nvml.problem:
        return _nvml_problem(nvml.problem, simulated)
    seen = {_bare(one.uuid) for one in nvml.devices}
    missing = [one for one in lease.devices if _bare(one.uuid) not in seen]
    if missing:
        which = ", ".join(f"GPU {one.index}" for one in missing)
        return Note("bad", f"NVML does not see {which} of your lease. {RESTART}")
    return None


def _nvml_problem(problem: str, simulated: bool) -> Note:
    said = problem.lower()
    if problem == NO_PYNVML:
        text = f"{NO_PYNVML}, so driver and links are not shown. GPUs work without it."
        return Note("info", text)
    failed = f"Failed to initialize NVML: {problem}."
    if simulated and ("not found" in said or "not loaded" in said):
        text = "Simulated GPUs have no driver in here, so NVML has nothing to show."
        return Note("info", text)
    if "mismatch" in said:
        text = "The machine's driver was updated and waits for a restart of the machine"
        return Note("bad", f"{failed} {text}: tell your instructor.")
    if "lost" in said:
        text = f"The GPU no longer answers: tell your instructor. {RESTART}"
        return Note("bad", f"{failed} {text}")
    return Note("bad", f"{failed} This server has lost its way to the GPU. {RESTART}")


def _torch_note(
    lease: Lease, torch: TorchView, nvml: NvmlView, simulated: bool
) -> Note:
    leased, seen = len(lease.devices), len(torch.devices)
    if torch.version is None:
        return Note("bad", torch_missing(torch))
    if torch.cuda is None:
        return _cpu_build(lease, nvml, simulated)
    if not seen:
        said = f" It says: {torch.problem}." if torch.problem else ""
        text = f"PyTorch {torch.version} finds no usable GPU.{said} {RESTART}"
        return Note("bad", f"{text} If that does not help, choose another image.")
    if seen < leased:
        return Note(
            "warn",
            f"PyTorch sees {seen} of your {leased} GPUs. If you set "
            "`CUDA_VISIBLE_DEVICES`, that is why; otherwise stop and start the server.",
        )
    answer = "Your GPU is" if leased == 1 else f"All {leased} GPUs are"
    return Note("good", f"{answer} ready for PyTorch.")


def _cpu_build(lease: Lease, nvml: NvmlView, simulated: bool) -> Note:
    leased = {_bare(one.uuid) for one in lease.devices}
    by = "NVML sees"
    devices = [one.name for one in nvml.devices if _bare(one.uuid) in leased]
    if not devices:
        by, devices = "Leased:", [one.name for one in lease.devices]
    names = _counted(
        f"{name} (simulated)" if simulated and "(simulated)" not in name else name
        for name in devices
    )
    text = f"{by} {names}; this PyTorch is a CPU build, so computations run on the CPU."
    if simulated:
        return Note("info", f"{text} With simulated GPUs that is as it should be.")
    return Note(
        "bad",
        f"{text} Choose an image whose PyTorch has CUDA. If you installed PyTorch "
        "yourself, `pip uninstall torch` brings the image's own back.",
    )


def _counted(names: Iterable[str]) -> str:
    """'A, A, B' -> '2 x A, B', in order of first sight."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{n} x {name}" if n > 1 else name for name, n in counts.items())


def torch_missing(torch: TorchView) -> str:
    """Why there is no PyTorch in this kernel, and what to do."""
    said = f" ({torch.problem})" if torch.problem else ""
    return (
        f"PyTorch cannot be used in this kernel{said}. Choose Kernel ▸ Change Kernel ▸ "
        "Python 3, or start the server with an image that has PyTorch."
    )


def _gpus(count: int) -> str:
    return "GPU" if count == 1 else "GPUs"

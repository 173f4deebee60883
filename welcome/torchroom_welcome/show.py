"""What the welcome notebook calls. Each function returns a Panel and never raises."""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Callable

from torchroom_welcome import check as matrix
from torchroom_welcome import gpus as gpu
from torchroom_welcome import links as link
from torchroom_welcome import shm as shared
from torchroom_welcome import tokens as money
from torchroom_welcome import warning
from torchroom_welcome.facts import Facts, Limits, load
from torchroom_welcome.panel import Note, Panel, bytes_text


def _plainly(title: str) -> Callable[[Callable[[], Panel]], Callable[[], Panel]]:
    """The student's boundary: what nobody foresaw becomes a sentence, too."""

    def wrap(page: Callable[[], Panel]) -> Callable[[], Panel]:
        @functools.wraps(page)
        def shown() -> Panel:
            try:
                return page()
            # Everything expected is handled where it happens. This is the last place
            # before the student, and a traceback would tell them nothing.
            except Exception as error:  # noqa: BLE001
                text = (
                    "This part of the page failed; the rest still works. Show your "
                    f"instructor this line: {type(error).__name__}: {error}"
                )
                return Panel(title, notes=(Note("bad", text),))

        return shown

    return wrap


@_plainly("Welcome")
def hello() -> Panel:
    """Who this server belongs to and which software is in it."""
    facts = load()
    torch = gpu.look_torch()
    nvml = gpu.look_nvml()
    notes = gpu.banner(facts)
    if torch.version is None:
        notes.append(Note("bad", gpu.torch_missing(torch)))
    if facts.problem:
        notes.append(Note("warn", facts.problem))
    return Panel(
        f"Welcome{_name(facts)}",
        rows=tuple(gpu.versions(torch, nvml, platform.python_version())),
        notes=tuple(notes),
    )


def _name(facts: Facts) -> str:
    server = f" (server {facts.server})" if facts.server else ""
    return f", {facts.user}{server}" if facts.user else ""


@_plainly("Your GPUs")
def gpus() -> Panel:
    """Each leased GPU, or why there is none."""
    facts = load()
    torch = gpu.look_torch()
    nvml = gpu.look_nvml(facts.lease.devices if facts.lease else ())
    count = len(facts.lease.devices) if facts.lease else 0
    return Panel(
        "Your GPU" if count == 1 else "Your GPUs",
        table=gpu.table(facts, torch, nvml),
        notes=(*gpu.banner(facts), *gpu.explain(facts, torch, nvml)),
    )


@_plainly("Matrix check")
def check() -> Panel:
    """Multiply two matrices on the CPU and on every GPU, and compare."""
    torch = gpu.look_torch()
    if torch.version is None:
        text = gpu.torch_missing(torch)
        return Panel("Matrix check", notes=(Note("bad", text),))
    results = matrix.measure()
    return Panel(
        f"Matrix check: {matrix.SIZE} x {matrix.SIZE}, float32",
        rows=matrix.rows(results),
        notes=tuple(matrix.verdict(results)),
    )


@_plainly("Links between your GPUs")
def links() -> Panel:
    """How the leased GPUs are connected."""
    facts = load()
    title = "Links between your GPUs"
    devices = facts.lease.devices if facts.lease else ()
    if not link.pairs(devices):
        have = "one GPU" if devices else "no GPU"
        text = f"This server has {have}, so there are no links to show."
        return Panel(title, notes=(Note("info", text),))
    try:
        found = link.look_links(devices)
    except gpu.NvmlUnavailable as error:
        text = f"NVML cannot tell how your GPUs are connected: {error}."
        note = Note("info" if facts.simulated else "warn", text)
        return Panel(title, notes=(*gpu.banner(facts), note))
    return Panel(
        title,
        table=link.table(found),
        notes=(*gpu.banner(facts), link.advice(found)),
    )


@_plainly("Shared memory")
def shm() -> Panel:
    """The size of /dev/shm, as found and as promised."""
    title = "Shared memory"
    try:
        total, free = shared.size_bytes()
    except OSError as error:
        text = f"There is no {shared.PLACE} ({error.strerror}): use `num_workers=0`."
        return Panel(title, notes=(Note("warn", text),))
    size = f"{bytes_text(total)}, {bytes_text(free)} free"
    promised = load().limits.shm_bytes
    return Panel(
        title,
        rows=((shared.PLACE, size),),
        notes=(shared.verdict(total, promised),),
    )


@_plainly("Limits")
def limits() -> Panel:
    """What this server may use, as the hub set it."""
    facts = load()
    if facts.problem:
        return Panel("Limits", notes=(Note("warn", facts.problem),))
    found = facts.limits
    return Panel(
        "Limits",
        rows=(
            ("Memory", _or_none(found.memory_bytes and bytes_text(found.memory_bytes))),
            ("CPUs", _or_none(found.n_cpus and f"{found.n_cpus:g}")),
            ("Processes", _or_none(found.pids and f"{found.pids:,}")),
        ),
        notes=tuple(_limit_notes(found, gpu.look_torch().threads)),
    )


def _or_none(text: object) -> str:
    return str(text) if text else "no limit"


def _limit_notes(limits: Limits, threads: int) -> list[Note]:
    notes = []
    if limits.memory_bytes:
        text = "Beyond its memory a kernel is killed and restarts: use smaller batches."
        notes.append(Note("info", text))
    # On a machine with many CPUs PyTorch starts a thread for each of them, and the
    # few that this server may use then spend their time switching.
    if limits.n_cpus and threads > math.ceil(limits.n_cpus):
        better = f"`torch.set_num_threads({math.ceil(limits.n_cpus)})`"
        text = f"PyTorch uses {threads} CPU threads here; {better} will be faster."
        notes.append(Note("warn", text))
    return notes


@_plainly("Tokens")
def tokens() -> Panel:
    """Balance and burn rate, through the one port for them."""
    facts = load()
    if facts.problem:
        return Panel("Tokens", notes=(Note("warn", facts.problem),))
    reading = money.meter_for(facts.tokens).read()
    warnings = warning.notes(facts)
    notes = (*warnings, reading.note)
    return Panel("Tokens", rows=money.rows(reading), notes=notes)

"""A matrix multiply on every GPU against the CPU: is it right, how much faster?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torchroom_welcome.gpus import RESTART, first_line
from torchroom_welcome.panel import Note

SIZE = 2048
# Relative error of the whole product; TF32 keeps ten bits, float32 twice as many.
TOLERANCE = 2e-3
CPU_REPEATS = 3
GPU_REPEATS = 20


@dataclass(frozen=True)
class Measured:
    """One device's multiply; ``error`` is relative to the CPU's product."""

    place: str
    seconds: float
    error: float = 0.0
    problem: str | None = None


def measure(size: int = SIZE) -> list[Measured]:
    """The CPU first, then each GPU that PyTorch sees. Needs torch; takes seconds.

    A GPU that fails is reported in ``problem``; it does not hide the others.
    """
    torch: Any = import_module("torch")
    # A generator of its own: the student's random numbers stay what they were.
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(size, size, generator=generator)
    b = torch.randn(size, size, generator=generator)
    product = a @ b
    results = [Measured("CPU", _best(lambda: a @ b, CPU_REPEATS))]
    if torch.cuda.is_available():
        results += [
            _measure_gpu(torch, position, a, b, product)
            for position in range(torch.cuda.device_count())
        ]
    return results


def _measure_gpu(torch: Any, position: int, a: Any, b: Any, product: Any) -> Measured:
    place = f"cuda:{position}"
    try:
        x, y = a.to(place), b.to(place)
        found = (x @ y).cpu()
        error = float(torch.linalg.norm(found - product) / torch.linalg.norm(product))

        def multiply() -> None:
            x @ y
            torch.cuda.synchronize(position)

        return Measured(place, _best(multiply, GPU_REPEATS), error)
    except RuntimeError as failure:  # out of memory and CUDA's errors alike
        return Measured(place, 0.0, problem=first_line(str(failure)))


def _best(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest repeat: neighbours only ever make it slower."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def gigaflops(seconds: float, size: int = SIZE) -> float:
    """A product of n x n matrices takes 2 n^3 operations."""
    return 2 * size**3 / seconds / 1e9


def rows(results: list[Measured], size: int = SIZE) -> tuple[tuple[str, str], ...]:
    """Time and rate of each device that finished."""
    return tuple(
        (
            one.place,
            f"{one.seconds * 1000:,.2f} ms, "
            f"{gigaflops(one.seconds, size):,.0f} GFLOP/s",
        )
        for one in results
        if one.problem is None
    )


def verdict(results: list[Measured]) -> list[Note]:
    """Right or wrong, and how much faster; says so when only the CPU was there."""
    cpu, gpus = results[0], results[1:]
    if not gpus:
        text = "Measured on the CPU only: PyTorch has no GPU to compare it with."
        return [Note("info", text)]
    return [_one_verdict(gpu, cpu) for gpu in gpus]


def _one_verdict(gpu: Measured, cpu: Measured) -> Note:
    if gpu.problem is not None:
        return Note("bad", f"{gpu.place}: {advice(gpu.problem)}")
    # "not <=" so that NaN counts as wrong.
    if not gpu.error <= TOLERANCE:
        return Note(
            "bad",
            f"{gpu.place} computed a wrong product (relative error {gpu.error:.1e}). "
            "Do not trust this GPU, and tell your instructor.",
        )
    ratio = cpu.seconds / gpu.seconds
    text = f"{gpu.place} agrees with the CPU (relative error {gpu.error:.0e})"
    return Note("good", f"{text} and is {ratio:,.1f} times as fast.")


def advice(problem: str) -> str:
    """CUDA's message, followed by what a student can do about it."""
    said = problem.lower()
    if "out of memory" in said:
        what = "Another notebook holds the memory: Kernel ▸ Shut Down All Kernels."
    elif "no kernel image" in said:
        what = "This image is not made for this GPU: choose another image."
    else:
        what = RESTART
    return f"{problem.rstrip('.')}. {what}"

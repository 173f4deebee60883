"""Caps the GPU memory that PyTorch takes in this process. Delivered into containers.

Python imports this at every start, so it does next to nothing: it looks out for
`import torch` and imports nothing heavy. It runs on Python 3.5 and later, and a
sitecustomize of the image runs as ever. `python -I`, `-E` and `-S` do not read it;
then the hub's watchdog is what is left.

After `import torch` a call is queued that PyTorch makes when it initialises CUDA;
torch.cuda queues its own checks in the same way, from 0.4 to today. Nothing is
initialised before the user does it. PYTORCH_ALLOC_CONF is not touched: PyTorch before
2.10 refuses the key per_process_memory_fraction, every program started from here would
inherit it, and a value there hides the user's own PYTORCH_CUDA_ALLOC_CONF.
"""

import sys

TYPE_CHECKING = False  # typing is not imported at run time: it costs milliseconds
if TYPE_CHECKING:
    from typing import Any


def _smaller(cuda: "Any", index: int, fraction: float) -> float:
    """Return the user's own fraction from PYTORCH_ALLOC_CONF if it is smaller."""
    try:
        return min(fraction, float(cuda.get_per_process_memory_fraction(index)))
    except Exception:  # noqa: BLE001 - PyTorch before 2.8 cannot be asked
        return fraction


def _cap(cuda: "Any", cap_bytes: int) -> None:
    current = cuda.current_device()
    try:
        for index in range(cuda.device_count()):
            total = cuda.get_device_properties(index).total_memory
            fraction = _smaller(cuda, index, min(1.0, cap_bytes / float(total)))
            cuda.set_per_process_memory_fraction(fraction, index)
    finally:
        cuda.set_device(current)  # setting a fraction moves to that device


def _queue_cap(torch: "Any", cap_bytes: int) -> None:
    """Queue the cap. Whatever fails, PyTorch goes on; the watchdog is still there."""

    def cap() -> None:
        try:
            _cap(torch.cuda, cap_bytes)
        except Exception:  # noqa: BLE001 - whatever it is
            return

    try:
        torch.cuda._lazy_call(cap)
    except Exception:  # noqa: BLE001 - whatever it is
        return


class _TorchFinder:
    """Finds torch as everybody else does, and lets the cap follow its import."""

    def __init__(self, cap_bytes: int) -> None:
        self.cap_bytes = cap_bytes
        self.is_asking = False

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name != "torch" or self.is_asking:
            return None
        self.is_asking = True
        try:
            spec = self._others(name, path, target)
        finally:
            self.is_asking = False
        execute = getattr(getattr(spec, "loader", None), "exec_module", None)
        if execute is None:
            return spec

        def exec_module(module: "Any") -> None:
            execute(module)
            _queue_cap(module, self.cap_bytes)

        try:
            spec.loader.exec_module = exec_module
        except AttributeError:  # a loader without room for it
            return spec
        return spec

    @staticmethod
    def _others(name: str, path: "Any", target: "Any") -> "Any":
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                return spec
        return None


def _watch_torch() -> None:
    import os  # noqa: PLC0415 - site has loaded it

    try:
        cap_bytes = int(os.environ.get("GPUSPAWNER_TORCH_BYTES", "0"))
    except ValueError:
        return
    if cap_bytes <= 0:
        return
    if "torch" in sys.modules:
        _queue_cap(sys.modules["torch"], cap_bytes)
    else:
        sys.meta_path.insert(0, _TorchFinder(cap_bytes))


def _run_the_images_own() -> None:
    """Run the sitecustomize that this file stands before, under its own name."""
    from importlib._bootstrap import module_from_spec  # noqa: PLC0415 - util is slow
    from importlib.machinery import PathFinder  # noqa: PLC0415

    here = __file__.rpartition("/")[0]
    others = [path for path in sys.path if path.rstrip("/") != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if not hasattr(sys, "_gpuspawner"):  # this folder may be on the path twice
    sys._gpuspawner = True  # type: ignore[attr-defined]
    _watch_torch()
    _run_the_images_own()

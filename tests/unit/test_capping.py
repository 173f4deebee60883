"""A share's memory cap is always kept by something, and torch starts as ever."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpuspawner import capping, incontainer
from gpuspawner.capping import CapTooWeak, Means
from gpuspawner.model import Device, Slot, SlotKind, whole
from hypothesis import given
from hypothesis import strategies as st

GIB = 2**30
GPU = Device(0, "GPU-0", "A100", 40 * GIB, 0)
SHARE = Slot(GPU, "GPU-0/0:4", SlotKind.SHARE, 10 * GIB, "1/4")
INSTANCE = Slot(GPU, "MIG-0", SlotKind.MIG, 10 * GIB, "1g.10gb")


# ------------------------------------------------------------------ which means


@pytest.mark.parametrize(
    ("slot", "read_back", "framework", "expected"),
    [
        (whole(GPU), None, False, Means.HARDWARE),
        (INSTANCE, None, False, Means.HARDWARE),
        (SHARE, 10 * GIB, True, Means.DRIVER),
        (SHARE, 10 * GIB - 4096, False, Means.DRIVER),
        (SHARE, 10 * GIB + 1, True, Means.FRAMEWORK),
        (SHARE, 2**64 - 1, True, Means.FRAMEWORK),
        (SHARE, 0, True, Means.FRAMEWORK),
        (SHARE, None, True, Means.FRAMEWORK),
        (SHARE, None, False, Means.WATCHDOG),
    ],
)
def test_the_strongest_means_that_was_verified_is_named(
    slot: Slot, read_back: int | None, framework: bool, expected: Means
) -> None:
    """A limit that reads back larger than the share enforces nothing."""
    found = capping.means(slot, read_back, is_framework_capped=framework)
    assert found is expected
    assert capping.sentence(found)


def test_a_site_may_refuse_shares_that_are_kept_too_weakly() -> None:
    """The user reads why and what to choose; the default refuses nobody."""
    for found in Means:
        capping.check_strong_enough(SHARE, found, Means.WATCHDOG)
    capping.check_strong_enough(SHARE, Means.DRIVER, Means.DRIVER)
    with pytest.raises(CapTooWeak, match=r"kept by framework only.*whole GPU"):
        capping.check_strong_enough(SHARE, Means.FRAMEWORK, Means.DRIVER)


# ------------------------------------------------------------------ environment


@given(st.integers(1, 2**40), st.integers(1, 2**40))
def test_what_frameworks_may_allocate_is_below_the_cap_and_never_nothing(
    cap: int, device: int
) -> None:
    """However small the share: XLA takes a fraction of 0 for everything."""
    env = capping.environment({}, cap, device)
    assert 0 < int(env[capping.TORCH_BYTES]) <= cap
    assert 0 < float(env["XLA_PYTHON_CLIENT_MEM_FRACTION"]) <= 1


def test_a_context_fits_into_the_share_beside_the_allocator() -> None:
    """Otherwise a program that fills its fraction would be over its cap."""
    assert capping.allocator_bytes(10 * GIB) == 10 * GIB - capping.CONTEXT_BYTES


def test_what_the_image_sets_is_kept() -> None:
    """Its PYTHONPATH follows ours; its allocator settings are not touched."""
    theirs = {
        "PYTHONPATH": "/app/lib:/app",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    env = theirs | capping.environment(theirs, 10 * GIB, 40 * GIB)
    assert env["PYTHONPATH"] == f"{incontainer.PYTHON_DIR}:/app/lib:/app"
    assert env["PYTORCH_ALLOC_CONF"] == theirs["PYTORCH_ALLOC_CONF"]
    assert env["PYTORCH_CUDA_ALLOC_CONF"] == theirs["PYTORCH_CUDA_ALLOC_CONF"]
    # An empty entry would put the working directory on the path.
    assert capping.environment({"PYTHONPATH": ""}, GIB, GIB)["PYTHONPATH"] == (
        incontainer.PYTHON_DIR
    )


def test_jax_never_finds_both_of_its_names_set() -> None:
    """It refuses to start then."""
    assert "XLA_CLIENT_MEM_FRACTION" not in capping.environment({}, GIB, 4 * GIB)
    theirs = {"XLA_CLIENT_MEM_FRACTION": ".9"}
    env = capping.environment(theirs, 10 * GIB, 40 * GIB)
    assert env["XLA_CLIENT_MEM_FRACTION"] == ""
    assert env["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2312"


# ------------------------------------------------- sitecustomize, in real interpreters

TOTAL = 40 * GIB

# What torch.cuda does with its queue is the same from 1.x to 2.x; see its source.
TORCH = """
import json, os, sys
__version__ = {version!r}
conf = os.environ.get("PYTORCH_ALLOC_CONF", "")
if {version!r} in ("1.13.1", "2.9.1") and "per_process_memory_fraction" in conf:
    raise RuntimeError("Unrecognized key 'per_process_memory_fraction'")
from . import cuda
"""
CUDA = """
calls, fractions = [], {{}}
_initialized, _initializing, _queued_calls, _current = False, False, [], 0
class Properties: total_memory = {total}
def _lazy_call(callable, **kwargs):
    callable() if _initialized else _queued_calls.append(callable)
def _lazy_init():
    global _initialized, _initializing
    if _initialized or _initializing:
        return
    calls.append("init")
    _initializing = True
    for queued in _queued_calls:
        queued()
    _initializing, _initialized = False, True
def device_count(): return 2
def current_device():
    _lazy_init()
    return _current
def set_device(index):
    global _current
    _current = index
def get_device_properties(index):
    _lazy_init()
    return Properties
def set_per_process_memory_fraction(fraction, device=None):
    _lazy_init()
    assert isinstance(fraction, float) and 0 <= fraction <= 1
    fractions[device] = fraction
    set_device(device)
"""
ASK_A_FRACTION = """
def get_per_process_memory_fraction(device=None):
    _lazy_init()
    return fractions.get(device, {fraction})
"""
REPORT = """
import json, sys
import torch
before = list(torch.cuda.calls)
torch.cuda._lazy_init()
print(json.dumps([before, torch.cuda.calls, torch.cuda.fractions, torch.cuda._current]))
"""
Python = Callable[..., subprocess.CompletedProcess[str]]


def stand_in_torch(
    folder: Path, version: str, *, body: str = "", users_fraction: float = 1.0
) -> Path:
    package = folder / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TORCH.format(version=version) + body)
    cuda = CUDA.format(total=TOTAL)
    if version.startswith("2"):
        cuda += ASK_A_FRACTION.format(fraction=users_fraction)
    (package / "cuda.py").write_text(cuda)
    info = folder / f"torch-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: torch\nVersion: {version}\n")
    return folder


@pytest.fixture
def delivered(tmp_path: Path) -> Path:
    """The folder as it lies in a container."""
    folder = tmp_path / "opt/gpuspawner/python"
    folder.mkdir(parents=True)
    for path, content in incontainer.memory_cap_files().items():
        (folder / Path(path).name).write_bytes(content)
    return folder


@pytest.fixture
def python(delivered: Path) -> Python:
    """Runs a Python as in a container with a share of 10 of 40 GiB."""

    def run(
        code: str,
        *path: Path,
        program: str = sys.executable,
        flags: tuple[str, ...] = (),
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        theirs = {"PYTHONPATH": ":".join(map(str, path)), **env}
        made = theirs | capping.environment(theirs, 10 * GIB, TOTAL)
        made["PYTHONPATH"] = made["PYTHONPATH"].replace(
            incontainer.PYTHON_DIR, str(delivered)
        )
        return subprocess.run(
            [program, "-B", *flags, "-c", code],
            check=False,
            text=True,
            capture_output=True,
            env={"PATH": os.environ["PATH"], **made},
        )

    return run


def report(done: subprocess.CompletedProcess[str]) -> Any:
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


FRACTION = capping.allocator_bytes(10 * GIB) / TOTAL


@pytest.mark.parametrize("version", ["1.13.1", "2.9.1", "2.10.0"])
def test_every_torch_is_capped_when_it_initialises_cuda_not_before(
    version: str, tmp_path: Path, python: Python
) -> None:
    """On each device, and the current device stays what it was."""
    torch = stand_in_torch(tmp_path / "site", version)
    before, after, fractions, current = report(python(REPORT, torch))
    assert before == []
    assert after == ["init"]
    assert fractions == {"0": FRACTION, "1": FRACTION}
    assert current == 0


@pytest.mark.parametrize("version", ["1.13.1", "2.9.1", "2.10.0"])
def test_the_users_own_allocator_settings_reach_every_torch_unchanged(
    version: str, tmp_path: Path, python: Python
) -> None:
    """A key that this torch does not know would stop it."""
    torch = stand_in_torch(tmp_path / "site", version)
    settings = {
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128",
    }
    code = (
        "import torch, os, json; print(json.dumps("
        "[os.environ['PYTORCH_ALLOC_CONF'], os.environ['PYTORCH_CUDA_ALLOC_CONF']]))"
    )
    assert report(python(code, torch, **settings)) == list(settings.values())


def test_a_smaller_fraction_of_the_users_own_stays(
    tmp_path: Path, python: Python
) -> None:
    """The cap is a cap, not a grant."""
    torch = stand_in_torch(tmp_path / "site", "2.10.0", users_fraction=0.01)
    fractions = report(python(REPORT, torch))[2]
    assert fractions == {"0": 0.01, "1": 0.01}


def test_a_torch_that_refuses_the_cap_works_on(tmp_path: Path, python: Python) -> None:
    """No queue, no CUDA, an error in the call: the watchdog is still there."""
    for n, body in enumerate(
        (
            "del cuda._lazy_call",
            "del cuda",
            "cuda.get_device_properties = None",
            "cuda.set_per_process_memory_fraction = None",
        )
    ):
        torch = stand_in_torch(tmp_path / str(n), "2.9.1", body=body)
        code = "import torch, sys; c = getattr(torch, 'cuda', None)"
        code += "\nif c: c._lazy_init(); print(c._current)"
        done = python(code, torch)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout in {"0\n", ""}


def test_a_torch_whose_import_fails_can_be_imported_again(
    tmp_path: Path, python: Python
) -> None:
    """And is capped then."""
    torch = stand_in_torch(
        tmp_path / "site",
        "2.9.1",
        body="if not hasattr(sys, 'x'):\n  sys.x = 1\n  raise OSError('libcuda')\n",
    )
    code = "try:\n  import torch\nexcept OSError: pass\n" + REPORT
    assert set(report(python(code, torch))[2]) == {"0", "1"}


def test_torch_looks_as_it_does_without_the_cap(tmp_path: Path, python: Python) -> None:
    """Its loader, resources and metadata; looking for it does not import it."""
    torch = stand_in_torch(tmp_path / "site", "2.9.1")
    code = """
import importlib.util, importlib.resources, importlib.metadata, inspect, sys, json
spec = importlib.util.find_spec("torch")
assert "torch" not in sys.modules
import torch
assert importlib.resources.files("torch").joinpath("cuda.py").is_file()
assert inspect.getsource(torch)
print(json.dumps([type(spec.loader).__name__, importlib.metadata.version("torch"),
  torch.__spec__.name]))
"""
    assert report(python(code, torch)) == ["SourceFileLoader", "2.9.1", "torch"]


def test_without_torch_its_absence_is_what_it_was(python: Python) -> None:
    """The same error, and find_spec says None."""
    code = """
import importlib.util
assert importlib.util.find_spec("torch") is None
try: import torch
except ModuleNotFoundError as error: print(error)
"""
    done = python(code, flags=("-s",))
    assert (done.stdout, done.stderr) == ("No module named 'torch'\n", "")


def test_the_images_own_sitecustomize_runs_under_its_own_name(
    tmp_path: Path, python: Python
) -> None:
    """As if ours were not there."""
    site = stand_in_torch(tmp_path / "site", "2.9.1")
    (site / "sitecustomize.py").write_text("import sys; sys.theirs = __file__\n")
    code = "import sitecustomize, sys; assert sys.theirs == sitecustomize.__file__\n"
    assert set(report(python(code + REPORT, site))[2]) == {"0", "1"}


def test_an_error_in_the_images_own_sitecustomize_is_told_as_ever(
    tmp_path: Path, python: Python
) -> None:
    """Python starts, and the cap is in place."""
    site = stand_in_torch(tmp_path / "site", "2.9.1")
    (site / "sitecustomize.py").write_text("import no_such_module\n")
    done = python(REPORT, site)
    assert done.returncode == 0
    assert "no_such_module" in done.stderr
    assert set(json.loads(done.stdout)[2]) == {"0", "1"}


def test_a_copy_of_the_folder_on_the_path_does_no_harm(
    tmp_path: Path, python: Python, delivered: Path
) -> None:
    """Through a link, and with the path's order changed."""
    link = tmp_path / "again"
    link.symlink_to(delivered)
    torch = stand_in_torch(tmp_path / "site", "2.9.1")
    assert set(report(python(REPORT, link, torch))[2]) == {"0", "1"}


def test_a_virtual_environment_is_capped_too(tmp_path: Path, python: Python) -> None:
    """Students make them; PYTHONPATH holds there."""
    made = tmp_path / "venv"
    venv.create(made, with_pip=False, symlinks=True)
    (site,) = made.glob("lib/python*/site-packages")
    stand_in_torch(site, "1.13.1")
    program = str(made / "bin/python")
    assert set(report(python(REPORT, program=program))[2]) == {"0", "1"}


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_an_isolated_python_is_not_capped_and_works(
    flag: str, tmp_path: Path, python: Python
) -> None:
    """The watchdog is what is left: this is why it is there."""
    torch = stand_in_torch(tmp_path / "site", "2.9.1")
    code = f"import sys; sys.path.insert(0, {str(torch)!r})\n{REPORT}"
    assert report(python(code, flags=(flag,)))[2] == {}
    check = capping.check_framework_cap()
    assert python(check[-1], flags=(flag,)).returncode == 1


def test_the_check_says_whether_the_cap_is_in_place(python: Python) -> None:
    """It is how the spawner knows what to call the means."""
    program, option, code = capping.check_framework_cap()
    assert (program, option) == ("python3", "-c")
    assert python(code).returncode == 0
    bare = subprocess.run([sys.executable, "-c", code], check=False, env={})
    assert bare.returncode == 1


def test_a_start_of_python_loads_nothing_more_because_of_us(python: Python) -> None:
    """No torch, no importlib.metadata, nothing that costs milliseconds."""
    code = "import sys; print(' '.join(sorted(sys.modules)))"
    plain = subprocess.run(
        [sys.executable, "-c", code], check=True, text=True, capture_output=True, env={}
    )
    more = set(python(code).stdout.split()) - set(plain.stdout.split())
    assert more <= {
        "sitecustomize",
        "importlib",
        "importlib._bootstrap",
        "importlib._bootstrap_external",
        "importlib.machinery",
        "warnings",
    }

"""Compiles the stand-in ``libnvidia-ml.so.1`` against NVIDIA's own header.

Used as a module (``build(out_dir)``) and as ``python3 build.py OUT [HEADER_DIR]``.
Every function of the header that ``nvml.c`` does not implement becomes a stub that
answers "not supported", so an unmodified client finds all the names it looks for.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SONAME = "libnvidia-ml.so.1"
SOURCE = Path(__file__).resolve().with_name("nvml.c")
_HEADER_PATHS = ("cu13/include/nvml.h", "nvml_dev/include/nvml.h")


class CannotBuildError(RuntimeError):
    """The library cannot be compiled here; the text says why."""


class MissingToolError(CannotBuildError):
    """What compiling needs is not installed; the text names it."""


def find_header() -> Path:
    """Give the folder of ``nvml.h`` from an installed ``nvidia-nvml-dev``."""
    spec = importlib.util.find_spec("nvidia")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    # A hook or `make` may run another Python than the environment's own.
    roots.append(os.path.join(sysconfig.get_path("purelib"), "nvidia"))
    for root in roots:
        for name in _HEADER_PATHS:
            header = Path(root, name)
            if header.is_file():
                return header.parent
    raise MissingToolError("nvml.h missing: install nvidia-nvml-dev")


def stubs(header: str, source: str) -> str:
    """Give C for every function that the header declares and the source lacks."""
    declared = set(re.findall(r"nvmlReturn_t\s+DECLDIR\s+(nvml\w+)\s*\(", header))
    implemented = set(re.findall(r"^API (nvml\w+)\(", source, re.MULTILINE))
    implemented |= set(re.findall(r"^READING\((nvml\w+),", source, re.MULTILINE))
    lines = ["int simulated_stub(const char *fn);"]
    lines += [
        f'int {name}(void) {{ return simulated_stub("{name}"); }}'
        for name in sorted(declared - implemented)
    ]
    return "\n".join(lines) + "\n"


def build(out_dir: str | os.PathLike[str], header_dir: Path | None = None) -> Path:
    """Compile the library into ``out_dir`` and give its path.

    Does nothing if it is newer than its sources. A library in use is replaced by a
    rename, never written into. Raises CannotBuildError naming what is missing.
    """
    out = Path(out_dir)
    library = out / SONAME
    header = (header_dir or find_header()) / "nvml.h"
    newest = max(p.stat().st_mtime for p in (SOURCE, header, Path(__file__)))
    if library.exists() and library.stat().st_mtime > newest:
        return library
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        raise MissingToolError("gcc missing: install a C compiler")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as tmp:
        stub_file = Path(tmp, "stubs.c")
        stub_file.write_text(stubs(header.read_text(), SOURCE.read_text()))
        fresh = Path(tmp, SONAME)
        command = [compiler, "-std=gnu11", "-O2", "-g1", "-Wall", "-Wextra", "-Werror"]
        command += ["-fPIC", "-shared", "-pthread", f"-Wl,-soname,{SONAME}"]
        command += ["-I", str(header.parent), "-o", str(fresh)]
        command += [str(SOURCE), str(stub_file)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise CannotBuildError(f"the stand-in NVML failed:\n{result.stderr}")
        fresh.replace(library)
    return library


if __name__ == "__main__":
    print(build(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None))

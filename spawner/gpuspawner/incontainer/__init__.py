"""Files that are delivered into containers; nothing here is imported by the hub."""

from pathlib import Path

PYTHON_DIR = "/opt/gpuspawner/python"
"""Root-owned, and first on PYTHONPATH: it holds sitecustomize.py and nothing else."""


def memory_cap_files() -> dict[str, bytes]:
    """Return what the framework cap needs: path in the container -> content."""
    name = "sitecustomize.py"
    return {f"{PYTHON_DIR}/{name}": Path(__file__).with_name(name).read_bytes()}

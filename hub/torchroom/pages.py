"""What every page of the hub shows."""

from pathlib import Path

TEMPLATES = str(Path(__file__).with_name("templates"))
"""The folder of our versions of JupyterHub's pages."""


def announcement(n_simulated: int) -> str:
    """Return the banner of every page; "" if there is nothing to say."""
    if not n_simulated:
        return ""
    return (
        f"The {n_simulated} GPUs of this hub are simulated: a way to look at Torchroom "
        "without a GPU. Nothing computes on them."
    )

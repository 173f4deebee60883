"""What an image says about itself, and the tag that follows from it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

PREFIX = "org.torchroom."
REPOSITORY = "torchroom/pytorch"
STATED = ("torch", "cuda", "cudnn", "python", "jupyterhub", "jupyterlab")

_SINCE_9 = 10000

# Run inside the image by its own Python: the labels are what this finds.
CONTENT = """
import importlib.metadata as m, json, platform, torch
print(json.dumps({
    "torch": torch.__version__,
    "cuda": torch.version.cuda or "none",
    "cudnn": str(torch.backends.cudnn.version() or "none"),
    "python": platform.python_version(),
    "jupyterhub": m.version("jupyterhub"),
    "jupyterlab": m.version("jupyterlab"),
}))
"""


def labels(content: Mapping[str, str]) -> dict[str, str]:
    """The labels for what was found in an image."""
    return {PREFIX + name: content[name] for name in STATED}


def stated(image_labels: Mapping[str, str] | None) -> dict[str, str]:
    """What an image's labels say; a missing label is an empty value."""
    return {name: (image_labels or {}).get(PREFIX + name, "") for name in STATED}


def tag(content: Mapping[str, str]) -> str:
    """The tag for what was found, like pytorch2.13-cuda13.0-cudnn9-runtime."""
    torch = ".".join(re.findall(r"\d+", content["torch"])[:2])
    if content["cuda"] == "none":
        return f"pytorch{torch}-cpu-runtime"
    return (
        f"pytorch{torch}-cuda{content['cuda']}-cudnn{_major(content['cudnn'])}-runtime"
    )


def disagreements(
    name: str, said: Mapping[str, str], content: Mapping[str, str], hub: str
) -> list[str]:
    """Where an image's name, labels and content, and the hub, contradict each other."""
    wrong = [
        f"the label {PREFIX}{key} says {said[key] or 'nothing'},"
        f" the image holds {content[key]}"
        for key in STATED
        if said[key] != content[key]
    ]
    if name.rpartition(":")[2] != tag(content):
        wrong.append(f"the tag of {name} must be {tag(content)}")
    if content["jupyterhub"] != hub:
        wrong.append(f"it has JupyterHub {content['jupyterhub']}, and the hub is {hub}")
    return wrong


def _major(cudnn: str) -> int:
    """How cuDNN counts: 8902 for 8.9.2 and, since version 9, 90100 for 9.1.0."""
    number = int(cudnn)
    return number // 10000 if number >= _SINCE_9 else number // 1000

"""The image of a student's server: built, asked what it holds, labelled, checked."""

from __future__ import annotations

import json
import os

from toolbox.client import docker, docker_json, try_docker
from toolbox.console import Failure, say
from toolbox.places import ROOT, locked

from builder import bake, base, labels, mirrors, wheels

_FOLDER = ROOT / "images" / "pytorch"
_FILES = (
    "Dockerfile",
    "requirements.lock",
    "overrides.json",
    "torchroom_boot.py",
    "torchroom-singleuser",
)
_CPU = "torch==2.13.0"
_CUDA = "torch===2.13.0"  # exactly PyPI's build, and so its CUDA packages
_PUBLIC_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHON = "3.11"


def build(*, cuda: bool = False, fresh: bool = False) -> str:
    """Build the user image unless it is there already; return its tag."""
    spec = os.environ.get("TORCH_SPEC") or (_CUDA if cuda else _CPU)
    origin = base.ensure()
    with bake.one_at_a_time(_name(cuda)):
        recipe = _recipe(origin, spec, cuda=cuda, fresh=fresh)
        inputs = recipe.fingerprint(origin)
        tag = "" if fresh else bake.built_from(inputs)
        if tag:
            return tag
        for wheel in (recipe.context / "wheels").iterdir():
            say(f"    torch comes from this machine: {wheel.name}")
        plain = bake.build(recipe)
        found = content(plain)
        tag = f"{labels.REPOSITORY}:{labels.tag(found)}"
        stated = {**labels.labels(found), bake.INPUTS: inputs}
        labelled = bake.build(recipe, labels=stated, is_silent=True)
        check(tag, labelled)
        bake.tag(labelled, tag)
        try_docker("image", "rm", plain)
    return tag


def content(image: str) -> dict[str, str]:
    """Ask an image what it holds."""
    out = docker(
        *(
            "run",
            "--rm",
            "--network",
            "none",
            "--user",
            "1000",
            "--entrypoint",
            "python",
        ),
        *(image, "-c", labels.CONTENT),
        timeout=300,
    )
    return dict(json.loads(out.splitlines()[-1]))


def check(tag: str, image: str = "") -> None:
    """Fail when the tag, the labels and the content of an image disagree."""
    config = docker_json("image", "inspect", image or tag)["Config"]
    wrong = labels.disagreements(
        tag,
        labels.stated(config["Labels"]),
        content(image or tag),
        locked("jupyterhub"),
    )
    if wrong:
        raise Failure(
            "; ".join(wrong), "build it again: python3 images/build.py pytorch"
        )


def _name(cuda: bool) -> str:
    return "pytorch-cuda" if cuda else "pytorch"


def _recipe(origin: str, spec: str, *, cuda: bool, fresh: bool) -> bake.Recipe:
    settings = mirrors.pip_settings()
    python = os.environ.get("PYTHON_VERSION") or PYTHON
    local = [] if cuda else wheels.matching(settings, spec, python)
    index = os.environ.get("TORCH_INDEX_URL", "")
    if not (index or local or cuda):
        index = _PUBLIC_CPU_INDEX
    recipe = bake.Recipe(
        name=_name(cuda),
        # TORCH_INDEX_URL is part of a secret, not an argument: it may be a mirror's
        args={"BASE_IMAGE": origin, "TORCH_SPEC": spec, "PYTHON": python},
        secrets={
            **mirrors.apt_secrets(base.RELEASE),
            "pipconf": mirrors.pip_conf(settings, wheels=False),
            "torchconf": mirrors.pip_conf(settings, wheels=True, torch_index=index),
        },
        secret_files={"ca": settings.ca} if settings.ca else {},
        fresh=fresh,
    )
    recipe.lay({name: _FOLDER / name for name in _FILES})
    wheels.stage(local, recipe.context / "wheels")
    return recipe

"""The images of the deployment itself: the hub, and what stands around it."""

from __future__ import annotations

from pathlib import Path

from toolbox.places import ROOT, version

from builder import bake, base, mirrors


def build(target: str, *, fresh: bool = False) -> str:
    """Build one of them, like `hub`, unless it is there already; return its tag."""
    tag = f"torchroom/{target}:{version()}"
    origin = base.ensure()
    with bake.one_at_a_time(target):
        recipe = _recipe(target, origin, fresh=fresh)
        inputs = recipe.fingerprint(origin)
        if fresh or bake.built_from(inputs) != tag:
            bake.tag(bake.build(recipe, labels={bake.INPUTS: inputs}), tag)
    return tag


def _recipe(target: str, origin: str, *, fresh: bool) -> bake.Recipe:
    settings = mirrors.pip_settings()
    recipe = bake.Recipe(
        name=target,
        target=target,
        args={"BASE_IMAGE": origin},
        secrets={
            **mirrors.apt_secrets(base.RELEASE),
            "pipconf": mirrors.pip_conf(settings, wheels=False),
            "npmrc": mirrors.npmrc(),
        },
        secret_files={"ca": settings.ca} if settings.ca else {},
        fresh=fresh,
    )
    lay = {"proxy": _proxy, "tls": _tls, "firewall": _firewall, "hub": _hub}
    recipe.lay(lay[target]())
    return recipe


def _proxy() -> dict[str, Path]:
    files = ("package.json", "package-lock.json", "requirements.lock", "server.mjs")
    places = {f"hub/proxy/{name}": ROOT / "hub" / "proxy" / name for name in files}
    return {"Dockerfile": ROOT / "hub" / "Dockerfile", **places}


def _tls() -> dict[str, Path]:
    return {"Dockerfile": ROOT / "hub" / "Dockerfile", "hub/tls": ROOT / "hub" / "tls"}


def _firewall() -> dict[str, Path]:
    room = "hub/torchroom"
    return {
        "Dockerfile": ROOT / "hub" / "Dockerfile",
        f"src/{room}/__init__.py": ROOT / room / "__init__.py",
        f"src/{room}/firewall": ROOT / room / "firewall",
    }


def _hub() -> dict[str, Path]:
    files = {
        "Dockerfile": "hub/Dockerfile",
        "hub/requirements.lock": "hub/requirements.lock",
        "hub/build-requirements.lock": "hub/build-requirements.lock",
        "src/spawner": "spawner",
        "src/hub/torchroom": "hub/torchroom",
        "src/hub/pyproject.toml": "hub/pyproject.toml",
        "welcome": "welcome",
    }
    return {name: ROOT / path for name, path in files.items()}

"""Builds the image of a stock single-user server; prints its tag.

Run with deploy/ on the path and DOCKER_HOST set; unchanged, it is not built again.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy"))

from builder import bake, base, mirrors  # noqa: E402  the path comes first
from toolbox import console  # noqa: E402

TAG = "torchroom-bench/stock:1"
LOCK = ROOT / "images" / "pytorch" / "requirements.lock"
PINNED = re.compile(r"^[A-Za-z0-9._-]+==[^ ;\\]+", re.MULTILINE)


def build() -> str:
    """Build it unless it is there; return its tag."""
    origin = base.ensure()
    with bake.one_at_a_time("stock"):
        settings = mirrors.pip_settings()
        recipe = bake.Recipe(
            name="stock",
            args={"BASE_IMAGE": origin},
            secrets={
                **mirrors.apt_secrets(base.RELEASE),
                "pipconf": mirrors.pip_conf(settings, wheels=False),
            },
            secret_files={"ca": settings.ca} if settings.ca else {},
        )
        recipe.lay({"Dockerfile": ROOT / "bench" / "stock" / "Dockerfile"})
        pinned = "\n".join(PINNED.findall(LOCK.read_text(encoding="utf-8")))
        (recipe.context / "constraints.txt").write_text(pinned + "\n", encoding="utf-8")
        inputs = recipe.fingerprint(origin)
        if bake.built_from(inputs) != TAG:
            bake.tag(bake.build(recipe, labels={bake.INPUTS: inputs}), TAG)
    return TAG


def main() -> None:
    """Build it and print its tag."""
    console.progress_to(sys.stderr)
    with console.step("image stock") as step:
        step.detail = build()
    print(step.detail, flush=True)


if __name__ == "__main__":
    console.as_command(main)

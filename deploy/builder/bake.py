"""Running one `docker build`: context, secrets, progress, and what changed."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from toolbox.client import advice, building_client, docker, try_docker
from toolbox.command import follow
from toolbox.console import Failure, say
from toolbox.places import cache_dir, state_dir
from toolbox.turns import taking_turns

from builder import wheels

# Every image says what it was made from, so an unchanged one is not built again.
INPUTS = "org.torchroom.inputs"
TRIES = 3
_CUT_OFF = re.compile(r"rpc error: code = (Internal|Unavailable|Canceled)")
_STEP = re.compile(r"^#\d+ \[(?P<stage>[^\]]*\d+/\d+)\] (?P<what>.*)$")
_LEFT_OUT = {
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".mypy_cache",
    ".ipynb_checkpoints",
}


@dataclass
class Recipe:
    """Everything one image is built from."""

    name: str
    args: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    secret_files: Mapping[str, Path] = field(default_factory=dict)
    target: str = ""
    fresh: bool = False

    @property
    def context(self) -> Path:
        """A fixed folder, so that BuildKit transfers only what changed."""
        return cache_dir() / "contexts" / self.name

    def lay(self, places: Mapping[str, Path]) -> None:
        """Make the context from files and folders, keyed by where they go."""
        shutil.rmtree(self.context, ignore_errors=True)
        self.context.mkdir(parents=True)
        for name, source in places.items():
            _copy(source, self.context / name)

    def fingerprint(self, base: str) -> str:
        """A digest of all that decides the content of the image."""
        digest = hashlib.sha256(
            docker("image", "inspect", "-f", "{{.Id}}", base).encode()
        )
        for name, value in sorted({**self.args, "target": self.target}.items()):
            digest.update(f"{name}={value}\0".encode())
        for path in sorted(p for p in self.context.rglob("*") if p.is_file()):
            digest.update(f"{path.relative_to(self.context)}\0".encode())
            if path.suffix == ".whl":  # named after its content; hundreds of megabytes
                digest.update(str(path.stat().st_size).encode())
            else:
                digest.update(path.read_bytes())
        return digest.hexdigest()


def one_at_a_time(name: str) -> AbstractContextManager[None]:
    """Builds of one image share a context folder, so two commands take turns."""
    lock = cache_dir() / "contexts" / f"{name}.lock"
    return taking_turns(lock, "builds this image")


def built_from(inputs: str) -> str:
    """The tag of an image made from exactly these inputs, or nothing."""
    found = docker(
        *("image", "ls", "--filter", f"label={INPUTS}={inputs}"),
        *("--format", "{{.Repository}}:{{.Tag}}"),
    )
    return next((tag for tag in found.splitlines() if "<none>" not in tag), "")


def build(
    recipe: Recipe, *, labels: Mapping[str, str] | None = None, is_silent: bool = False
) -> str:
    """Build a recipe whose context is laid; return the image's ID.

    Args:
        recipe: See Recipe.
        labels: What the image shall say about itself.
        is_silent: Do not say the steps: all of them were just made.
    """
    with tempfile.TemporaryDirectory(prefix="torchroom-secrets-") as private:
        iid = Path(private) / "iid"
        command = [
            building_client(),
            "build",
            "--progress",
            "plain",
            "--network",
            "host",
        ]
        command += ["--iidfile", str(iid)]
        command += _options(recipe, labels or {})
        command += _secrets(recipe, Path(private))
        log = state_dir() / "logs" / f"build-{recipe.name}.log"
        for _ in range(TRIES):
            code = follow(
                [*command, str(recipe.context)],
                log=log,
                line=_silence if is_silent else _progress(),
                env={"DOCKER_BUILDKIT": "1"},
            )
            if code == 0 or not _was_cut_off(log):
                break
            say("    the engine cut the build off; trying again")
        if code != 0:
            reason = _reason(log)
            raise Failure(
                f"building the image {recipe.name}: {reason}",
                advice(reason)
                or f"see {log}; when the network was at fault, run it again.",
            )
        return iid.read_text(encoding="utf-8").strip()


def tag(image: str, name: str) -> None:
    """Name an image; the one that had the name goes, unless it is in use."""
    before = try_docker("image", "inspect", "-f", "{{.Id}}", name).out.strip()
    docker("tag", image, name)
    if before and before != image:
        try_docker("image", "rm", before)


def _options(recipe: Recipe, labels: Mapping[str, str]) -> list[str]:
    options = [f"--build-arg={name}={value}" for name, value in recipe.args.items()]
    options += [f"--label={name}={value}" for name, value in labels.items()]
    options += [f"--target={recipe.target}"] if recipe.target else []
    options += ["--no-cache"] if recipe.fresh and not labels else []
    return options


def _secrets(recipe: Recipe, private: Path) -> list[str]:
    files = dict(recipe.secret_files)
    for name, text in recipe.secrets.items():
        files[name] = private / name
        files[name].write_text(text, encoding="utf-8")
    return [f"--secret=id={name},src={path}" for name, path in files.items()]


def _progress() -> Callable[[str, float], None]:
    """Say each step of the build once, in a short form."""
    seen: set[str] = set()

    def show(line: str, at: float) -> None:
        found = _STEP.match(line)
        if found and found["stage"] not in seen:
            seen.add(found["stage"])
            what = " ".join(re.sub(r"--mount=\S+", "", found["what"]).split())
            say(f"    {at:6.1f} s  [{found['stage']}] {what[:64]}")

    return show


def _silence(_line: str, _at: float) -> None:
    """Say nothing."""


def _was_cut_off(log: Path) -> bool:
    """Whether the engine lost its connection to the client, not a step its work.

    Seen with the BuildKit of Docker 20.10: "rpc error ... unexpected EOF". What was
    built until then is cached.
    """
    return bool(_CUT_OFF.search(_reason(log)))


def _reason(log: Path) -> str:
    """The last thing that the failing step said."""
    lines = [
        line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    failed = next(
        (m[1] for line in lines if (m := re.match(r"#(\d+) ERROR", line))), ""
    )
    said = [m[1] for line in lines if (m := re.match(rf"#{failed} [\d.]+ (.+)", line))]
    return (said or lines or ["no output"])[-1][:300]


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        wheels.link_or_copy(source, target)
        return
    target.mkdir(parents=True, exist_ok=True)
    for path in source.rglob("*"):
        inner = path.relative_to(source)
        if path.is_file() and not _LEFT_OUT & set(inner.parts):
            wheels.link_or_copy(path, target / inner)

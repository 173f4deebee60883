"""The built images: what they hold, what they say, and what they must not carry."""

import functools
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import docker
import pytest
from builder import base, labels, mirrors
from builder.user_image import content
from docker.models.containers import Container
from toolbox import places
from toolbox.client import client

pytestmark = pytest.mark.docker
ROOT = Path(__file__).resolve().parents[2]
# Addresses that anybody may see; everything else in the machine's settings is its own.
PUBLIC = ("deb.debian.org", "pypi.org", "registry.npmjs.org", "download.pytorch.org")
_MOST = 4 * 2**20  # settings are text; larger files are libraries


@pytest.fixture(scope="module")
def images(user_image: str) -> dict[str, str]:
    """Every image by its short name."""
    version = places.version()
    return {
        "base": base.TAG,
        "pytorch": user_image,
        "proxy": f"torchroom/proxy:{version}",
        "tls": f"torchroom/tls:{version}",
        "firewall": f"torchroom/firewall:{version}",
        "hub": f"torchroom/hub:{version}",
    }


@pytest.fixture(scope="module")
def student(engine: docker.DockerClient, user_image: str) -> Iterator[Container]:
    """A container of the user image, as its own user, with nothing running in it."""
    container = engine.containers.run(
        user_image, ["sleep", "infinity"], detach=True, network_mode="host"
    )
    yield container
    container.remove(force=True, v=True)


def inside(container: Container, *command: str) -> str:
    """What a command prints in a container, where it must succeed."""
    done = container.exec_run(list(command))
    assert isinstance(done.output, bytes)
    text = done.output.decode()
    assert done.exit_code == 0, text
    return text.strip()


def words_of_this_machine() -> set[bytes]:
    """What the machine's package settings say and an image must not."""
    settings = mirrors.pip_settings()
    words = {str(path) for path in (*settings.folders, *settings.indexes)}
    words |= {value for values in settings.values.values() for value in values}
    for text in (mirrors.npmrc(), *mirrors.apt_secrets(base.RELEASE).values()):
        words |= set(re.findall(r"https?://[^\s\";]+", text))
        words |= set(re.findall(r"_(?:authToken|auth|password)\s*=\s*(\S+)", text))
    words |= {os.uname().nodename}
    kept = {word.rstrip("/") for word in words if not any(p in word for p in PUBLIC)}
    # short words (a time-out's digits, a host named `a`) are in every image
    return {word.encode() for word in kept if len(word) >= 8} | _certificates(settings)


def _certificates(settings: mirrors.PipSettings) -> set[bytes]:
    """A line of each certificate that this machine trusts beyond Debian's own."""
    if settings.ca is None:
        return set()
    public = b"".join(
        path.read_bytes()
        for path in Path("/usr/share/ca-certificates").rglob("*.crt")
        if path.is_file()
    )
    bodies = re.findall(
        rb"-----BEGIN CERTIFICATE-----\s(.+?)-----END",
        settings.ca.read_bytes(),
        re.DOTALL,
    )
    lines = {body.split()[3] for body in bodies if len(body.split()) > 3}
    return {line for line in lines if line not in public} if public else set()


def files_of(image: str) -> Iterator[tuple[str, bytes]]:
    """Every file that an image's layers hold, also those that a later layer hides.

    Read as a stream: an image is larger than what a test should hold in memory.
    """
    with subprocess.Popen([client(), "save", image], stdout=subprocess.PIPE) as saving:
        with tarfile.open(fileobj=saving.stdout, mode="r|") as outer:
            for member in outer:
                content = outer.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                if member.name.endswith("layer.tar") or "blobs/" in member.name:
                    yield from _layer(content)
                else:
                    yield member.name, content.read()
        if saving.stdout:
            saving.stdout.read()
    assert saving.returncode == 0


def _layer(content: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    head = content.read(_MOST)
    if head[:1] == b"{":  # a newer engine keeps its descriptions among the layers
        yield "description", head
        return
    with tarfile.open(fileobj=_Rest(head, content), mode="r|") as layer:
        for file in layer:
            body = layer.extractfile(file) if file.isfile() else None
            small = body is not None and file.size <= _MOST
            yield file.name, body.read() if body and small else b""


class _Rest(io.RawIOBase):
    """What was read ahead, then what follows."""

    def __init__(self, head: bytes, tail: IO[bytes]) -> None:
        self.head, self.tail = io.BytesIO(head), tail

    def read(self, size: int = -1) -> bytes:
        return self.head.read(size) or self.tail.read(size)


@functools.cache
def scanned(image: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """The names of an image's files, and which of them say what they must not."""
    words = sorted(words_of_this_machine())
    names, found = set(), []
    for name, body in files_of(image):
        names.add(name)
        found += [f"{name}: {word.decode()}" for word in words if word in body]
    return frozenset(names), tuple(found)


# ------------------------------------------------ nothing of the machine's settings


@pytest.mark.parametrize("name", ["base", "pytorch", "proxy", "tls", "firewall", "hub"])
def test_no_file_of_any_layer_carries_the_machines_settings(
    images: dict[str, str], name: str
) -> None:
    """Mirror addresses, folders, credentials and own certificates stay outside."""
    names, found = scanned(images[name])
    assert found == ()
    assert "etc/debian_version" in {each.removeprefix("./") for each in names}


@pytest.mark.parametrize("name", ["base", "pytorch", "proxy", "tls", "firewall", "hub"])
def test_history_and_environment_carry_none_either(
    engine: docker.DockerClient, images: dict[str, str], name: str
) -> None:
    """Neither what `docker history` shows nor the image's own variables."""
    image = engine.images.get(images[name])
    said = json.dumps([image.history(), image.attrs["Config"]]).encode()
    assert [word for word in words_of_this_machine() if word in said] == []


@pytest.mark.parametrize("name", ["pytorch", "proxy", "tls", "firewall", "hub"])
def test_settings_files_and_lists_are_not_left(
    images: dict[str, str], name: str
) -> None:
    """No pip.conf, no npmrc, no package lists, no wheels, no secrets."""
    wrong = re.compile(
        r"(\./)?(etc/pip\.conf|.*/pip/pip\.conf|root/\.npmrc|etc/npmrc|run/secrets/.+"
        r"|var/lib/apt/lists/.*(Packages|InRelease).*|mnt/wheels/.+|.*\.whl)"
    )
    found = [place for place in scanned(images[name])[0] if wrong.fullmatch(place)]
    # Debian's own copies of pip and setuptools, for new virtual environments
    assert [p for p in found if "usr/share/python-wheels/" not in p] == []


def test_the_scan_finds_what_it_looks_for(
    engine: docker.DockerClient, images: dict[str, str]
) -> None:
    """A layer with a setting in it, hidden by the next layer, is found."""
    built = f"FROM {images['base']}\nRUN echo 'index-url = SeCrEt' > /etc/pip.conf\n"
    built += "RUN rm /etc/pip.conf\n"
    image, _ = engine.images.build(
        fileobj=io.BytesIO(built.encode()), rm=True, network_mode="none"
    )
    try:
        hidden = [body for _, body in files_of(str(image.id)) if b"SeCrEt" in body]
        assert b"index-url = SeCrEt\n" in hidden
    finally:
        engine.images.remove(str(image.id), force=True)


# ------------------------------------------------------- tag, labels, content agree


def test_labels_are_what_the_image_holds(
    engine: docker.DockerClient, user_image: str
) -> None:
    """Asked again, the image answers what its labels say, and its tag follows."""
    held = content(user_image)
    assert labels.stated(engine.images.get(user_image).labels) == held
    assert user_image == f"{labels.REPOSITORY}:{labels.tag(held)}"
    assert held["jupyterhub"] == places.locked("jupyterhub")
    assert held["jupyterlab"].startswith("4.")


def check(image: str) -> subprocess.CompletedProcess[str]:
    """Run images/check.py."""
    return subprocess.run(
        [sys.executable, str(ROOT / "images" / "check.py"), image],
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_check_passes_an_honest_image(user_image: str) -> None:
    """The image that the build made passes."""
    done = check(user_image)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("tag", "changed", "word"),
    [
        ("pytorch2.12-cpu-runtime", "", "tag"),
        ("pytorch2.13-cuda13.0-cudnn9-runtime", "", "tag"),
        ("", 'LABEL org.torchroom.torch="9.9.9"', "label"),
    ],
)
def test_the_check_fails_a_lying_image(
    engine: docker.DockerClient, user_image: str, tag: str, changed: str, word: str
) -> None:
    """A wrong tag or label fails with a sentence that names it."""
    lying = f"torchroom-lying/pytorch:{tag or user_image.split(':')[1]}"
    text = f"FROM {user_image}\n{changed}\n"
    engine.images.build(fileobj=io.BytesIO(text.encode()), rm=True, tag=lying)
    try:
        done = check(lying)
        assert done.returncode == 1
        assert word in done.stdout
        assert "Next: " in done.stdout
        assert "Traceback" not in done.stdout + done.stderr
    finally:
        engine.images.remove(lying, force=True)


# ------------------------------------------------------------ a student's container


def test_the_user_is_1000_at_home(student: Container) -> None:
    """Not root, in the home that a volume will cover."""
    assert inside(student, "id", "-u") == "1000"
    assert (
        inside(student, "sh", "-c", "echo $HOME; pwd") == "/home/jovyan\n/home/jovyan"
    )


def test_an_init_process_is_first(student: Container) -> None:
    """Tini collects orphans and passes signals on."""
    assert inside(student, "cat", "/proc/1/comm") == "tini"


def test_the_server_is_what_starts(
    engine: docker.DockerClient, user_image: str
) -> None:
    """Without a command the image runs the single-user server."""
    config = engine.images.get(user_image).attrs["Config"]
    assert config["Entrypoint"] == ["tini", "-g", "--"]
    assert config["Cmd"] == ["torchroom-singleuser"]
    assert not [e for e in config["Env"] if e.startswith("NVIDIA_VISIBLE_DEVICES")]


@pytest.mark.parametrize(
    "command",
    [
        "git --version",
        "vim --version",
        "pip --version",
        "jupyter lab --version",
        "jupyterhub-singleuser --version",
        "jupyter nbconvert --version",
    ],
)
def test_promised_programs_are_there(student: Container, command: str) -> None:
    """Each runs as the student."""
    assert inside(student, *command.split())


def test_no_compiler_is_shipped(student: Container) -> None:
    """What builds stays in the builder."""
    missing = "for p in gcc cc g++ make; do command -v $p; done; true"
    assert inside(student, "sh", "-c", missing) == ""


def test_torch_computes(student: Container) -> None:
    """On the CPU, with NumPy beside it."""
    code = "import torch, numpy; print(torch.ones(3).numpy().sum())"
    assert inside(student, "python", "-c", code) == "3.0"


def test_requirements_fit_together(student: Container) -> None:
    """Pip finds no contradiction."""
    assert inside(student, "pip", "check") == "No broken requirements found."


def test_code_is_compiled_already(student: Container) -> None:
    """A student cannot write bytecode there, so it is shipped."""
    code = (
        "import pathlib, jupyter_server as j, torch as t\n"
        "for m in (j, t):\n"
        "    d = pathlib.Path(m.__file__).parent\n"
        "    print(any((d / '__pycache__').glob('*.pyc')))"
    )
    assert inside(student, "python", "-c", code) == "True\nTrue"


def test_pip_installs_into_the_students_home(
    student: Container, tmp_path: Path
) -> None:
    """Plain `pip install` and `--user` both land in the home, and can be imported."""
    wheel = tmp_path / "hello_torchroom-1-py3-none-any.whl"
    make_wheel(wheel)
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(wheel, wheel.name)
        student.put_archive("/tmp", packed.getvalue())
    target = f"/tmp/{wheel.name}"
    where = "import hello_torchroom as h; print(h.__file__)"
    for flags in ([], ["--user"]):
        inside(
            student, "pip", "install", "--no-index", "--force-reinstall", *flags, target
        )
        assert inside(student, "python", "-c", where).startswith("/home/jovyan/.local/")


def make_wheel(path: Path) -> None:
    """Write the smallest wheel there is."""
    info = "hello_torchroom-1.dist-info"
    files = {
        "hello_torchroom.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: hello-torchroom\n"
        "Version: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(name, text)


# ------------------------------------------------------------------ hub and proxy


@pytest.mark.parametrize(
    ("name", "user"), [("hub", "61000:61000"), ("proxy", "1000:1000")]
)
def test_the_deployments_images_are_not_root(
    engine: docker.DockerClient, images: dict[str, str], name: str, user: str
) -> None:
    """An ordinary user, with an init process."""
    config = engine.images.get(images[name]).attrs["Config"]
    assert config["User"] == user
    assert config["Entrypoint"][0] == "tini"


def run_in(engine: docker.DockerClient, image: str, *command: str) -> str:
    """What a command prints in a fresh container without network."""
    out = engine.containers.run(
        image,
        list(command[1:]),
        entrypoint=command[0],
        remove=True,
        network_mode="none",
    )
    return str(out.decode()).strip()


def test_the_hub_is_the_locked_one(
    engine: docker.DockerClient, images: dict[str, str]
) -> None:
    """JupyterHub at its locked version, and both packages of the workspace."""
    code = "import gpuspawner, torchroom, jupyterhub; print(jupyterhub.__version__)"
    out = run_in(engine, images["hub"], "python", "-c", code)
    assert out == places.locked("jupyterhub")
    shipped = run_in(engine, images["hub"], "ls", "/srv/torchroom/welcome")
    assert shipped.split() == ["home", "torchroom_welcome"]


def test_the_proxy_has_node_and_no_npm(
    engine: docker.DockerClient, images: dict[str, str]
) -> None:
    """Node is new enough for the proxy; the package manager stayed in the builder."""
    version = run_in(engine, images["proxy"], "node", "--version")
    assert int(version.removeprefix("v").split(".")[0]) >= 20
    out = run_in(engine, images["proxy"], "sh", "-c", "command -v npm npx || echo none")
    assert out == "none"


def test_building_again_changes_nothing(
    engine: docker.DockerClient, images: dict[str, str]
) -> None:
    """With nothing changed, `images/build.py all` says the same and builds nothing."""
    before = [engine.images.get(tag).id for tag in images.values()]
    done = subprocess.run(
        [sys.executable, str(ROOT / "images" / "build.py"), "all"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == list(images.values())
    assert [engine.images.get(tag).id for tag in images.values()] == before

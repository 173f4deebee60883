"""How images are put together: the machine's settings, wheels, tags, lock files."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import lock
import pytest
from builder import bake, labels, mirrors, wheels
from toolbox import client, places
from toolbox.command import run
from toolbox.console import Failure

Install = Callable[..., str]
ROOT = Path(__file__).resolve().parents[2]
CPU = {
    "torch": "2.13.0+cpu",
    "cuda": "none",
    "cudnn": "none",
    "python": "3.11.2",
    "jupyterhub": "6.1.1",
    "jupyterlab": "4.6.6",
}
CUDA = {**CPU, "torch": "2.13.0+cu130", "cuda": "13.0", "cudnn": "92000"}


class TestTags:
    """Tag and labels follow from the content, and contradictions are found."""

    @pytest.mark.parametrize(
        ("content", "tag"),
        [
            (CPU, "pytorch2.13-cpu-runtime"),
            (CUDA, "pytorch2.13-cuda13.0-cudnn9-runtime"),
            ({**CUDA, "cudnn": "8902"}, "pytorch2.13-cuda13.0-cudnn8-runtime"),
            ({**CPU, "torch": "3.0.0a0+git1"}, "pytorch3.0-cpu-runtime"),
        ],
    )
    def test_tag_says_what_the_image_holds(
        self, content: dict[str, str], tag: str
    ) -> None:
        assert labels.tag(content) == tag

    def test_labels_state_everything_found(self) -> None:
        assert labels.stated(labels.labels(CUDA)) == CUDA

    def test_an_honest_image_passes(self) -> None:
        name = "torchroom/pytorch:pytorch2.13-cpu-runtime"
        assert labels.disagreements(name, CPU, CPU, "6.1.1") == []

    @pytest.mark.parametrize(
        ("name", "said", "hub", "word"),
        [
            ("torchroom/pytorch:pytorch2.14-cpu-runtime", CPU, "6.1.1", "tag"),
            ("torchroom/pytorch:pytorch2.13-cpu-runtime", CUDA, "6.1.1", "label"),
            ("torchroom/pytorch:pytorch2.13-cpu-runtime", CPU, "6.2.0", "JupyterHub"),
            ("localhost:5000/pytorch", CPU, "6.1.1", "tag"),
        ],
    )
    def test_each_contradiction_is_told(
        self, name: str, said: dict[str, str], hub: str, word: str
    ) -> None:
        assert word in "; ".join(labels.disagreements(name, said, CPU, hub))

    def test_an_image_without_labels_is_told_so(self) -> None:
        name = "torchroom/pytorch:pytorch2.13-cpu-runtime"
        wrong = labels.disagreements(name, labels.stated(None), CPU, "6.1.1")
        assert len(wrong) == len(labels.STATED)


class TestPipSettings:
    """pip's settings reach a build: addresses as they are, folders as mounts."""

    @pytest.fixture
    def machine(self, tmp_path: Path) -> dict[str, str]:
        (tmp_path / "wheels").mkdir()
        (tmp_path / "simple" / "torch").mkdir(parents=True)
        (tmp_path / "ca.pem").write_text("CA")
        config = tmp_path / "pip.conf"
        config.write_text(
            "[global]\n"
            f"find-links = {tmp_path}/wheels\n  https://wheels.school.example/\n"
            "index-url = https://user:secret@pypi.school.example/simple\n"
            f"extra-index-url = file://{tmp_path}/simple\n"
            "[install]\ntrusted-host = pypi.school.example\n"
        )
        ca = str(tmp_path / "ca.pem")
        return {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(config), "PIP_CERT": ca}

    def test_folders_of_the_machine_are_kept_apart(
        self, machine: dict[str, str], tmp_path: Path
    ) -> None:
        settings = mirrors.pip_settings(machine)
        assert settings.folders == (tmp_path / "wheels",)
        assert settings.indexes == (tmp_path / "simple",)

    def test_the_build_sees_addresses_and_the_mounted_places(
        self, machine: dict[str, str], tmp_path: Path
    ) -> None:
        text = mirrors.pip_conf(mirrors.pip_settings(machine), wheels=True)
        assert "index-url = https://user:secret@pypi.school.example/simple" in text
        assert "find-links = https://wheels.school.example/ /mnt/wheels" in text
        assert "trusted-host = pypi.school.example" in text
        assert "cert = /run/secrets/ca" in text
        assert str(tmp_path) not in text

    def test_the_environment_wins_over_files(self, machine: dict[str, str]) -> None:
        env = {**machine, "PIP_INDEX_URL": "https://other.example/simple"}
        values = mirrors.pip_settings(env).values
        assert values["index-url"] == ("https://other.example/simple",)

    def test_a_machine_without_settings_gives_an_empty_file(self) -> None:
        settings = mirrors.PipSettings({}, (), (), None)
        assert mirrors.pip_conf(settings, wheels=False) == "[global]\n"

    def test_an_index_for_torch_is_an_extra_one(self) -> None:
        settings = mirrors.PipSettings(
            {"extra-index-url": ("https://a",)}, (), (), None
        )
        text = mirrors.pip_conf(settings, wheels=False, torch_index="https://b")
        assert "extra-index-url = https://a https://b" in text


class TestDebianMirror:
    """The machine's Debian mirror is used, whatever way apt's lists are written."""

    @pytest.mark.parametrize(
        "text",
        [
            "deb [signed-by=/k.gpg] https://m.example/debian/ bookworm main\n"
            "deb https://m.example/debian-security bookworm-security main\n",
            "deb https://packages.example/other stable main\n"
            "deb https://m.example/debian trixie main\n"
            "deb https://m.example/debian-security trixie-security main\n",
        ],
    )
    def test_one_line_lists(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "sources.list").write_text(text)
        assert mirrors.debian_mirrors(tmp_path) == (
            "https://m.example/debian",
            "https://m.example/debian-security",
        )

    def test_deb822_lists(self, tmp_path: Path) -> None:
        (tmp_path / "sources.list.d").mkdir()
        (tmp_path / "sources.list.d" / "debian.sources").write_text(
            "Types: deb\nURIs: http://m.example/debian\nSuites: bookworm\n"
        )
        assert mirrors.debian_mirrors(tmp_path) == (
            "http://m.example/debian",
            mirrors.SECURITY,
        )

    def test_without_a_debian_list_the_public_archive(self, tmp_path: Path) -> None:
        (tmp_path / "sources.list").write_text(
            "deb http://u.example/ubuntu noble main\n"
        )
        assert mirrors.debian_mirrors(tmp_path) == (mirrors.DEBIAN, mirrors.SECURITY)


class TestNpmSettings:
    """npm's settings reach a build; what a build has no use for stays behind."""

    def test_registry_and_credentials_are_passed(self, tmp_path: Path) -> None:
        config = tmp_path / "npmrc"
        config.write_text(
            "registry=https://npm.school.example/\n"
            "//npm.school.example/:_authToken=t0ken\n"
            "prefix=/home/somebody\n"
        )
        text = mirrors.npmrc({"NPM_CONFIG_USERCONFIG": str(config)})
        assert "registry=https://npm.school.example/" in text
        assert "_authToken=t0ken" in text
        assert "prefix" not in text


class TestWheels:
    """Only the wheels that a requirement names are staged."""

    NAMES = (
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl",
        "torch-2.12.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch_geometric-2.13.0-py3-none-any.whl",
        "torch-2.13.0+cpu-cp311-cp311-win_amd64.whl",
    )

    @pytest.fixture
    def settings(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> mirrors.PipSettings:
        uname = type("Uname", (), {"machine": "x86_64"})
        monkeypatch.setattr(os, "uname", uname)
        for name in self.NAMES:
            (tmp_path / name).write_bytes(b"wheel")
        return mirrors.PipSettings({}, (tmp_path,), (), None)

    @pytest.mark.parametrize(
        ("spec", "found"),
        [
            ("torch==2.13.0", [NAMES[0]]),
            ("torch===2.13.0", []),
            ("torch===2.13.0+cpu", [NAMES[0]]),
            ("torch==2.13.0+cpu", [NAMES[0]]),
            ("torch==2.14", []),
            ("torch-geometric==2.13.0", [NAMES[3]]),
            ("torch>=2", []),
        ],
    )
    def test_requirement_and_python_decide(
        self, settings: mirrors.PipSettings, spec: str, found: list[str]
    ) -> None:
        assert [w.name for w in wheels.matching(settings, spec, "3.11")] == found

    def test_a_file_index_is_read_through_its_links(self, tmp_path: Path) -> None:
        page = tmp_path / "simple" / "numpy" / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(
            '<a href="../../pool/numpy-2.0-py3-none-any.whl#sha256=1">x</a>'
        )
        (tmp_path / "pool").mkdir()
        wheel = tmp_path / "pool" / "numpy-2.0-py3-none-any.whl"
        wheel.write_bytes(b"wheel")
        settings = mirrors.PipSettings({}, (), (tmp_path / "simple",), None)
        assert wheels.matching(settings, "numpy==2.0", "3.11") == [wheel]

    def test_staging_leaves_the_original(self, tmp_path: Path) -> None:
        wheel = tmp_path / "a-1-py3-none-any.whl"
        wheel.write_bytes(b"wheel")
        staged = wheels.stage([wheel], tmp_path / "stage")
        assert staged[0].read_bytes() == wheel.read_bytes()


class TestFingerprint:
    """An image is built again exactly when something that decides it has changed."""

    @pytest.fixture
    def recipe(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bake.Recipe:
        monkeypatch.setattr(bake, "cache_dir", lambda: tmp_path / "cache")
        monkeypatch.setattr(bake, "docker", lambda *_args: "sha256:1")
        (tmp_path / "Dockerfile").write_text("FROM a")
        (tmp_path / "src" / "__pycache__").mkdir(parents=True)
        (tmp_path / "src" / "code.py").write_text("1")
        (tmp_path / "src" / "__pycache__" / "code.pyc").write_text("2")
        return bake.Recipe(name="one", args={"A": "1"})

    def laid(self, recipe: bake.Recipe, tmp_path: Path) -> str:
        recipe.lay({"Dockerfile": tmp_path / "Dockerfile", "src": tmp_path / "src"})
        return recipe.fingerprint("base")

    def test_the_same_is_the_same(self, recipe: bake.Recipe, tmp_path: Path) -> None:
        assert self.laid(recipe, tmp_path) == self.laid(recipe, tmp_path)

    def test_bytecode_and_secrets_do_not_count(
        self, recipe: bake.Recipe, tmp_path: Path
    ) -> None:
        before = self.laid(recipe, tmp_path)
        (tmp_path / "src" / "__pycache__" / "code.pyc").write_text("3")
        recipe.secrets = {"pipconf": "other mirror"}
        assert self.laid(recipe, tmp_path) == before

    def test_a_changed_file_counts(self, recipe: bake.Recipe, tmp_path: Path) -> None:
        before = self.laid(recipe, tmp_path)
        (tmp_path / "src" / "code.py").write_text("2")
        assert self.laid(recipe, tmp_path) != before

    def test_another_base_counts(
        self, recipe: bake.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = self.laid(recipe, tmp_path)
        monkeypatch.setattr(bake, "docker", lambda *_args: "sha256:2")
        assert self.laid(recipe, tmp_path) != before


class TestClients:
    """A client that can build is found, also behind one that cannot."""

    @pytest.fixture
    def machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Install]:
        monkeypatch.delenv("TORCHROOM_DOCKER", raising=False)

        def install(folder: str, version: str, buildx: bool) -> str:
            path = tmp_path / folder / "docker"
            path.parent.mkdir()
            path.write_text(
                "#!/bin/sh\n"
                f'[ "$1" = --version ] && echo "Docker version {version}, build x"\n'
                f'[ "$1" = buildx ] && exit {0 if buildx else 1}\nexit 0\n'
            )
            path.chmod(0o755)
            return str(path)

        folders = [str(tmp_path / "a"), str(tmp_path / "b")]
        monkeypatch.setattr(os, "get_exec_path", lambda: folders)
        monkeypatch.setattr(client, "_ELSEWHERE", ())
        client.forget_clients()
        yield install
        client.forget_clients()

    def test_an_old_client_builds_by_itself(self, machine: Install) -> None:
        machine("a", "28.2.2", buildx=False)
        old = machine("b", "20.10.24", buildx=False)
        assert client.building_client() == old
        assert client.client() != old

    def test_a_new_client_builds_with_buildx(self, machine: Install) -> None:
        new = machine("a", "28.2.2", buildx=True)
        assert client.building_client() == new

    def test_none_that_builds_is_a_sentence(self, machine: Install) -> None:
        machine("a", "28.2.2", buildx=False)
        with pytest.raises(Failure) as raised:
            client.building_client()
        assert "docker-buildx" in raised.value.todo

    def test_podman_is_no_docker(self, machine: Install) -> None:
        """Debian's podman-docker is a /usr/bin/docker that knows `buildx`, too."""
        shim = Path(machine("a", "4.3.1", buildx=True))
        shim.write_text(shim.read_text().replace("Docker version", "podman version"))
        for find in (client.client, client.building_client):
            with pytest.raises(Failure, match="Podman") as raised:
                find()
            assert "podman-docker" in raised.value.todo
        real = machine("b", "28.2.2", buildx=True)
        assert client.client() == client.building_client() == real

    def test_a_full_disk_is_not_blamed_on_the_network(self) -> None:
        said = "ERROR: OSError: [Errno 28] No space left on device"
        assert "disk" in client.advice(said)
        assert client.advice("ERROR: it rains") == ""

    @pytest.mark.usefixtures("machine")
    def test_none_at_all_is_a_sentence(self) -> None:
        with pytest.raises(Failure, match="no Docker client"):
            client.client()


class TestLocks:
    """Lock files follow from what they are made from."""

    def test_hub_lock_follows_uv_lock(self) -> None:
        uv = Path(sys.executable).with_name("uv")
        if not uv.is_file():
            pytest.skip("uv is not in this environment (make setup)")
        stored = (ROOT / lock.HUB).read_text()
        assert stored == lock.exported(str(uv)), "out of date: run `make lock`"

    @pytest.mark.parametrize("name", lock.COMPILED)
    def test_every_requirement_is_locked_with_a_hash(self, name: str) -> None:
        text = (ROOT / name).read_text()
        wanted = (ROOT / name).with_suffix(".in").read_text()
        for line in wanted.splitlines():
            spec = line.partition("#")[0].strip()
            if spec:
                pinned = spec if "==" in spec else f"{re.split('[<>=]', spec)[0]}=="
                assert re.search(rf"^{re.escape(pinned)}", text, re.MULTILINE), spec
        assert len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)) <= text.count(
            "--hash="
        )

    def test_user_image_has_the_hubs_jupyterhub(self) -> None:
        text = (ROOT / "images/pytorch/requirements.lock").read_text()
        assert f"jupyterhub=={places.locked('jupyterhub')} " in text

    def test_the_costly_grammar_stays_out(self) -> None:
        text = (ROOT / "images/pytorch/requirements.lock").read_text()
        assert "rfc3987-syntax" not in text

    def test_locks_name_no_address(self) -> None:
        for name in (lock.HUB, *lock.COMPILED, lock.NODE):
            text = (ROOT / name).read_text()
            assert not re.search(r"--(extra-)?index-url|--find-links|resolved\"", text)

    def test_proxy_lock_holds_the_proxy(self) -> None:
        stated = json.loads((ROOT / "hub/proxy/package.json").read_text())
        held = json.loads((ROOT / lock.NODE).read_text())["packages"]
        for name, version in stated["dependencies"].items():
            assert held[f"node_modules/{name}"]["version"] == version


def test_tools_run_with_a_bare_python() -> None:
    """No third-party import: this runs before anything is set up."""
    commands = ("images/build.py", "images/check.py")
    for name in commands:
        bare = [sys.executable, "-S", "-E", str(ROOT / name), "--help"]
        assert subprocess.run(bare, check=False, capture_output=True).returncode == 0


def test_a_failing_program_becomes_a_sentence() -> None:
    with pytest.raises(Failure, match="no such thing"):
        run(["sh", "-c", "echo no such thing >&2; exit 3"])
    with pytest.raises(Failure, match="not installed"):
        run(["torchroom-no-such-program"])


def test_version_is_the_hubs() -> None:
    with (ROOT / "hub/pyproject.toml").open("rb") as file:
        assert places.version() == tomllib.load(file)["project"]["version"]

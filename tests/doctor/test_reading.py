"""The doctor reads real files, programs, an engine and an HTTPS server."""

import contextlib
import http.server
import json
import os
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.certificates import Authority
from torchroom.doctor.model import CdiSpec, Gpu
from torchroom.doctor.reading import read_machine
from torchroom.doctor.settings import ask, read_deployment

ROOT = Path(__file__).resolve().parents[2]
SPEC = """
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits: {}
- name: GPU-5a
containerEdits:
  mounts:
  - hostPath: /usr/lib/libcuda.so.580.95.05
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def add(folder: Path, name: str, says: str, status: int = 0) -> None:
    """Put a program into a folder that prints a text."""
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {status}\n")
    path.chmod(0o755)


def test_the_driver_is_asked_for_every_gpu(programs: Path, tmp_path: Path) -> None:
    add(
        programs,
        "nvidia-smi",
        "GPU-5a, NVIDIA H200, Enabled, 580.95.05\n"
        "GPU-6b, NVIDIA H200, Disabled, 580.95.05\n"
        "GPU-7c, NVIDIA H200, [N/A], 580.95.05",
    )
    driver = read_machine({}, tmp_path).driver
    assert driver is not None
    assert (driver.version, driver.error) == ("580.95.05", "")
    assert driver.gpus[0] == Gpu("GPU-5a", "NVIDIA H200", True)
    assert [gpu.is_persistent for gpu in driver.gpus] == [True, False, None]


def test_a_driver_that_fails_is_quoted(programs: Path, tmp_path: Path) -> None:
    add(programs, "nvidia-smi", "NVIDIA-SMI has failed because it couldn't.", 9)
    driver = read_machine({}, tmp_path).driver
    assert driver is not None
    assert driver.version is None
    assert "couldn't" in driver.error


def test_no_program_of_the_driver_means_no_driver(
    programs: Path, tmp_path: Path
) -> None:
    driver = read_machine({}, tmp_path).driver
    assert driver is not None
    assert (driver.version, driver.error) == (None, "")


def test_gpus_on_the_bus_are_counted(programs: Path, tmp_path: Path) -> None:
    for name, vendor, kind in [
        ("0", "0x10de", "0x030200"),
        ("1", "0x10de", "0x030000"),
        ("2", "0x10de", "0x040300"),  # its sound
        ("3", "0x8086", "0x030000"),
    ]:
        device = tmp_path / "sys/bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    assert read_machine({}, tmp_path).n_pci_gpus == 2


def test_the_toolkit_is_asked_for_its_version(programs: Path, tmp_path: Path) -> None:
    assert read_machine({}, tmp_path).toolkit == ""
    add(
        programs, "nvidia-ctk", "NVIDIA Container Toolkit CLI version 1.17.8\ncommit: x"
    )
    assert read_machine({}, tmp_path).toolkit == "1.17.8"


def test_cdi_files_are_read(programs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "etc/cdi"
    folder.mkdir(parents=True)
    (folder / "nvidia.yaml").write_text(SPEC)
    (folder / "other.yaml").write_text("kind: vendor.com/net\ndevices: [{name: eth0}]")
    found = read_machine({}, tmp_path).cdi
    path = str(folder / "nvidia.yaml")
    expected = CdiSpec(path, frozenset({"0", "GPU-5a"}), frozenset({"580.95.05"}))
    assert found == (expected,)


def test_inside_a_container_the_host_is_unknown(programs: Path, tmp_path: Path) -> None:
    (tmp_path / ".dockerenv").touch()
    found = read_machine({}, tmp_path)
    assert (found.toolkit, found.cdi, found.has_char_links) == (None, None, None)
    assert found.is_engine_open is None
    assert read_machine({}, tmp_path, is_host=True).cdi == ()


def test_who_has_the_hubs_user_number_is_named(programs: Path, tmp_path: Path) -> None:
    assert read_machine({}, tmp_path).namesake is None
    passwd = tmp_path / "etc/passwd"
    passwd.parent.mkdir()
    passwd.write_text("root:x:0:0::/root:/bin/sh\n")
    assert read_machine({}, tmp_path).namesake == ""
    passwd.write_text("root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n")
    assert read_machine({}, tmp_path).namesake == "ada"


def test_an_engine_on_tcp_is_seen(programs: Path, tmp_path: Path) -> None:
    table = tmp_path / "proc/net/tcp"
    table.parent.mkdir(parents=True)
    head = "  sl  local_address rem_address   st"
    table.write_text(f"{head}\n   0: 00000000:0947 00000000:0000 0A\n")
    assert read_machine({}, tmp_path).is_engine_open
    table.write_text(f"{head}\n   0: 0100007F:0948 00000000:0000 0A\n")
    assert read_machine({}, tmp_path).is_engine_open is False


def test_the_kernel_says_whether_the_clock_is_right(
    programs: Path, tmp_path: Path
) -> None:
    assert read_machine({}, tmp_path).is_clock_synchronised in {True, False}


def test_only_unix_sockets_of_engines_are_asked(programs: Path, tmp_path: Path) -> None:
    found = read_machine({"DOCKER_HOST": "tcp://127.0.0.1:1"}, tmp_path)
    assert found.engine is None
    assert "unix://" in found.engine_error


def test_secrets_that_others_may_read_are_named(tmp_path: Path) -> None:
    secret, other = tmp_path / "secret", tmp_path / "compose.env"
    secret.write_text("x")
    other.write_text("x")
    secret.chmod(0o644)
    other.chmod(0o600)
    env = {"TORCHROOM_OAUTH_CLIENT_SECRET_FILE": str(secret)}
    assert read_deployment(env, (other,)).open_files == (str(secret),)
    secret.chmod(stat.S_IRUSR)
    assert read_deployment(env, (other,)).open_files == ()


def test_courses_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    found = read_deployment({"TORCHROOM_COURSES": str(tmp_path / "none.toml")})
    assert "none.toml" in found.login_error
    garbled = tmp_path / "courses.toml"
    garbled.write_bytes(b"\xff")
    found = read_deployment({"TORCHROOM_COURSES": str(garbled)})
    assert "not plain text" in found.courses_error


# -- the public address ---------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@contextlib.contextmanager
def served(authority: Authority, headers: list[tuple[str, str]]) -> Iterator[str]:
    """An HTTPS server with these headers in every answer; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_the_public_address_is_asked(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    headers = [
        ("Strict-Transport-Security", "max-age=31536000"),
        ("Set-Cookie", "good=1; Path=/; Secure; HttpOnly"),
        ("Set-Cookie", "_xsrf=securely; Path=/"),
    ]
    with served(authority, headers) as url:
        answer = read_deployment({"TORCHROOM_PUBLIC_URL": url}).answer
    assert answer is not None
    assert (answer.error, answer.has_hsts) == ("", True)
    assert answer.open_cookies == ("_xsrf",)
    assert answer.certificate_ends is not None


def test_a_certificate_that_browsers_refuse_is_told_apart(authority: Authority) -> None:
    with served(authority, []) as url:
        answer = ask(url)
    assert answer.is_untrusted
    assert answer.error


def test_an_address_that_does_not_answer_is_told_apart(authority: Authority) -> None:
    with served(authority, []) as url:
        pass
    answer = ask(url)
    assert not answer.is_untrusted
    assert answer.error


# -- the commands ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-I", "-S", str(ROOT / "deploy/doctor.py")],
        [sys.executable, "-m", "torchroom.cli", "doctor"],
    ],
    ids=["make doctor", "torchroom doctor"],
)
def test_the_commands_say_findings_and_exit_with_the_worst(
    command: list[str], tmp_path: Path
) -> None:
    """On a bare Python, without a package, as on a host with nothing installed."""
    env = {
        "PATH": os.environ["PATH"],
        "DOCKER_HOST": f"unix://{tmp_path}/none.sock",
        "TORCHROOM_STATE_DIR": str(tmp_path),
    }
    if "-m" in command:
        command, env["PYTHONPATH"] = [*command, "--json"], str(ROOT / "hub")
    else:
        env["JSON"] = "1"
        command = [part for part in command if part != "-I"]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, cwd=ROOT
    )
    found = json.loads(done.stdout)
    engine = next(f for f in found["findings"] if f["check"] == "engine")
    assert engine["level"] == "fail"
    assert engine["fix"]
    assert done.returncode == 1
    assert not done.stderr


@pytest.mark.docker
def test_a_real_engine_is_understood() -> None:
    found = read_machine(dict(os.environ)).engine
    assert found is not None
    assert found.version
    assert "runc" in found.runtimes
    assert found.cgroup_driver in {"cgroupfs", "systemd"}
    assert any("seccomp" in entry for entry in found.security)
    assert found.root_dir.startswith("/")
    assert found.containers is not None

"""The doctor reads real files, programs, an engine and an HTTPS server."""

import contextlib
import http.server
import json
import os
import signal
import socketserver
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from testbed.certificates import Authority
from torchroom.doctor.model import CdiSpec, Gpu, Route
from torchroom.doctor.reading import NO_ANSWER, SECURE_BOOT, read_machine, run
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
        "GPU-5a, NVIDIA H200, Enabled, 580.95.05, Disabled\n"
        "GPU-6b, NVIDIA H200, Disabled, 580.95.05, [N/A]\n"
        "GPU-7c, NVIDIA H200, [N/A], 580.95.05, [N/A]",
    )
    driver = read_machine({}, tmp_path).driver
    assert driver is not None
    assert (driver.version, driver.error) == ("580.95.05", "")
    assert driver.gpus[0] == Gpu("GPU-5a", "NVIDIA H200", True)
    assert [gpu.is_persistent for gpu in driver.gpus] == [True, False, None]


def test_of_split_gpus_the_instances_are_listed(programs: Path, tmp_path: Path) -> None:
    rows = ["GPU-5a, A100, Enabled, 580.95.05, Enabled",
            "GPU-6b, A100, Enabled, 580.95.05, Enabled",
            "GPU-7c, A100, Enabled, 580.95.05, Disabled"]  # fmt: skip
    listed = ["GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5a)",
              "  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d)",
              "  MIG 1g.5gb      Device  1: (UUID: MIG-a28ad590-3fda)",
              "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-6b)",
              "GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-7c)"]  # fmt: skip
    path = programs / "nvidia-smi"
    words = {"-L": "\n".join(listed), "*": "\n".join(rows)}
    cases = "\n".join(
        f"{key}) cat <<'END'\n{said}\nEND\n;;" for key, said in words.items()
    )
    path.write_text(f"#!/bin/sh\ncase $1 in\n{cases}\nesac\n")
    path.chmod(0o755)
    driver = read_machine({}, tmp_path).driver
    assert driver is not None
    parts = ("MIG-c7384736-a75d", "MIG-a28ad590-3fda")
    assert [gpu.instances for gpu in driver.gpus] == [parts, (), None]
    assert driver.uuids == (*parts, "GPU-7c")


def test_a_program_that_hangs_is_left_alone(programs: Path) -> None:
    """Even if something of it lives on and holds what it prints to."""
    path = programs / "hangs"
    path.write_text("#!/bin/sh\nsleep 60 &\necho $! >$0.pid\nwait\n")
    path.chmod(0o755)
    status, said = run(["hangs"], within_s=3)
    os.kill(int((programs / "hangs.pid").read_text()), signal.SIGKILL)
    assert (status, said) == (NO_ANSWER, "hangs gave no answer within 3 s.")


@pytest.mark.parametrize("module", ["nvidia", "nouveau", ""])
def test_the_kernels_driver_is_named(
    programs: Path, tmp_path: Path, module: str
) -> None:
    if module == "nvidia":
        (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
        (tmp_path / "proc/driver/nvidia/version").touch()
    if module:
        (tmp_path / "sys/module/nouveau").mkdir(parents=True)
    driver = read_machine({}, tmp_path).driver
    assert driver is not None
    assert driver.module == module


def test_whether_the_kernel_takes_signed_modules_only_is_read(
    programs: Path, tmp_path: Path
) -> None:
    assert read_machine({}, tmp_path).is_secure_boot is False
    variable = tmp_path / SECURE_BOOT
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\x06\0\0\0\x01")
    assert read_machine({}, tmp_path).is_secure_boot is True


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
    passed_on = tmp_path / "sys/bus/pci/drivers/vfio-pci"
    passed_on.mkdir(parents=True)
    (tmp_path / "sys/bus/pci/devices/1/driver").symlink_to(passed_on)
    assert read_machine({}, tmp_path).n_pci_gpus == 1


def test_the_toolkit_is_asked_for_its_version(programs: Path, tmp_path: Path) -> None:
    assert read_machine({}, tmp_path).toolkit == ""
    add(
        programs, "nvidia-ctk", "NVIDIA Container Toolkit CLI version 1.17.8\ncommit: x"
    )
    assert read_machine({}, tmp_path).toolkit == "1.17.8"


@pytest.mark.parametrize(
    ("text", "sets_cgroups", "accepts_env"),
    [
        ("", True, True),
        ("[nvidia-container-cli]\nno-cgroups = true", False, True),
        ("[nvidia-container-cli]\nno-cgroups = false", True, True),
        ("accept-nvidia-visible-devices-envvar-when-unprivileged = false", True, False),
        ("= garbled", None, None),
        (None, None, None),
    ],
)
def test_the_toolkits_settings_are_read(
    programs: Path,
    tmp_path: Path,
    text: str | None,
    sets_cgroups: bool | None,
    accepts_env: bool | None,
) -> None:
    if text is not None:
        config = tmp_path / "etc/nvidia-container-runtime/config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(text)
    found = read_machine({}, tmp_path)
    assert (found.sets_cgroups, found.accepts_env) == (sets_cgroups, accepts_env)


def test_routes_are_read_without_the_default_one(
    programs: Path, tmp_path: Path
) -> None:
    table = tmp_path / "proc/net/route"
    table.parent.mkdir(parents=True)
    mark = "0001 0 0 0"
    table.write_text(
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        f"eth0 00000000 0101A8C0 {mark} 00000000 0 0 0\n"
        f"wg0 0000750A 00000000 {mark} 00F0FFFF 0 0 0\n"
        "odd\n"
    )
    expected = (Route(IPv4Network("10.117.0.0/20"), "wg0"),)
    assert read_machine({}, tmp_path).routes == expected


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
    assert (found.toolkit, found.cdi) == (None, None)
    assert (found.is_engine_open, found.routes, found.driver) == (None, None, None)
    assert read_machine({}, tmp_path, is_host=True).cdi == ()


def test_who_has_a_user_number_of_the_hubs_is_named(
    programs: Path, tmp_path: Path
) -> None:
    """Of all that getent knows; this machine's own one knows nobody."""
    assert read_machine({}, tmp_path).namesake == ""
    asked = tmp_path / "asked"
    one = "ada:x:61001:100::/home/ada:/bin/sh"
    add(programs, "getent", f"{one}\nEND\necho $@ > {asked}; cat <<'END'", 2)
    assert read_machine({}, tmp_path).namesake == "ada"
    assert asked.read_text().split() == ["passwd", "61000", "61001"]
    add(programs, "getent", "", 1)
    assert read_machine({}, tmp_path).namesake is None
    (tmp_path / ".dockerenv").touch()
    assert read_machine({}, tmp_path).namesake is None


def test_virtual_sockets_are_seen(programs: Path, tmp_path: Path) -> None:
    assert read_machine({}, tmp_path).has_vsock is None
    table = tmp_path / "proc/net/protocols"
    table.parent.mkdir(parents=True)
    table.write_text("protocol  size sockets\nTCP 2304 9\n")
    assert read_machine({}, tmp_path).has_vsock is False
    table.write_text("protocol  size sockets\nAF_VSOCK 1216 1\nTCP 2304 9\n")
    assert read_machine({}, tmp_path).has_vsock is True


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


@contextlib.contextmanager
def answering(
    folder: Path, answers: dict[str, object], asked: list[str] | None = None
) -> Iterator[dict[str, str]]:
    """A container engine that says this to these paths, else 404; its settings."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if asked is not None:
                asked.append(unquote(self.path))
            said = answers.get(urlsplit(self.path).path)
            body = json.dumps(said).encode()
            self.send_response(404 if said is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

    path = folder / "engine.sock"
    with socketserver.UnixStreamServer(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {"DOCKER_HOST": f"unix://{path}"}
        finally:
            server.shutdown()


INFO = {
    "ServerVersion": "28.2.0",
    "OperatingSystem": "Debian",
    "Runtimes": {"runc": {}},
}
DOCKER = {"Version": "28.2.0", "Components": [{"Name": "Engine"}]}
PODMAN = {"Version": "4.3.1", "Components": [{"Name": "Podman Engine"}]}


def test_podman_is_told_from_docker(programs: Path, tmp_path: Path) -> None:
    for version, is_podman in ((DOCKER, False), (PODMAN, True)):
        with answering(tmp_path, {"/info": INFO, "/version": version}) as env:
            engine = read_machine(env, tmp_path).engine
        (tmp_path / "engine.sock").unlink()
        assert engine is not None
        assert engine.is_podman is is_podman


@pytest.mark.parametrize(
    ("devices", "read"),
    [
        ([{"Source": "cdi", "ID": "nvidia.com/gpu=GPU-a"}],
         frozenset({"nvidia.com/gpu=GPU-a"})),
        ([], frozenset()),
        (None, None),  # too old to say
    ],
)  # fmt: skip
def test_the_engine_says_how_it_attaches_gpus(
    programs: Path, tmp_path: Path, devices: object, read: frozenset[str] | None
) -> None:
    said: dict[str, object] = {**INFO, "CgroupDriver": "systemd"}
    said["DefaultRuntime"] = "nvidia"
    if devices is not None:
        said["DiscoveredDevices"] = devices
    with answering(tmp_path, {"/info": said, "/version": DOCKER}) as env:
        engine = read_machine(env, tmp_path).engine
    assert engine is not None
    assert engine.cdi_devices == read
    assert (engine.cgroup_driver, engine.default_runtime) == ("systemd", "nvidia")
    assert engine.runtimes == {"runc"}


def test_what_is_no_engine_is_said(programs: Path, tmp_path: Path) -> None:
    with answering(tmp_path, {"/info": ["hello"], "/version": DOCKER}) as env:
        found = read_machine(env, tmp_path)
    assert found.engine is None
    assert "no container engine" in found.engine_error


@pytest.mark.parametrize(
    ("labels", "cuda"),
    [({"org.torchroom.cuda": "13.0"}, "13.0"), ({}, ""), (None, "")],
)
def test_the_users_image_says_which_cuda_it_has(
    programs: Path, tmp_path: Path, labels: dict[str, str] | None, cuda: str
) -> None:
    answers = {
        "/info": INFO,
        "/version": DOCKER,
        "/images/torchroom/pytorch:one/json": {"Config": {"Labels": labels}},
    }
    with answering(tmp_path, answers) as env:
        asked = {**env, "TORCHROOM_USER_IMAGE": "torchroom/pytorch:one"}
        engine = read_machine(asked, tmp_path).engine
        absent = read_machine(env, tmp_path).engine
    assert engine is not None
    assert engine.image_cuda == cuda
    assert absent is not None
    assert absent.image_cuda is None


@pytest.mark.parametrize("name", ["COMPOSE_PROJECT_NAME", "TORCHROOM_HUB_ID"])
def test_the_network_is_that_of_this_deployment(
    programs: Path, tmp_path: Path, name: str
) -> None:
    """In the hub's container it is TORCHROOM_HUB_ID that says which one this is."""
    asked: list[str] = []
    answers: dict[str, object] = {"/info": INFO, "/version": DOCKER}
    with answering(tmp_path, answers, asked) as env:
        read_machine({**env, name: "room-b"}, tmp_path)
    (networks,) = [target for target in asked if target.startswith("/networks")]
    assert "com.docker.compose.project=room-b" in networks


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
    assert (answer.n_cookies, answer.open_cookies) == (2, ("_xsrf",))
    assert answer.certificate_ends is not None


def test_inside_a_container_this_machines_own_address_is_not_asked() -> None:
    """There it is the container's."""
    env = {"TORCHROOM_PUBLIC_URL": "https://localhost:1"}
    assert read_deployment(env, is_host=False).answer is None
    assert read_deployment(env).answer is not None


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


def doctor(tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`make doctor` on a machine without an engine."""
    return subprocess.run(
        [sys.executable, str(ROOT / "deploy/doctor.py")],
        env={
            "PATH": os.environ["PATH"],
            "DOCKER_HOST": f"unix://{tmp_path}/none.sock",
            "TORCHROOM_STATE_DIR": str(tmp_path),
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TORCHROOM_PORT", "http"),
        ("TORCHROOM_COURSES", "no-such-file.toml"),
        ("TORCHROOM_SUBNET", "8.8.8.0/24"),
    ],
)
def test_what_make_up_would_refuse_is_one_finding_of_many(
    tmp_path: Path, name: str, value: str
) -> None:
    done = doctor(tmp_path, JSON="1", **{name: value})
    found = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["settings"]["level"] == "fail"
    assert name in found["settings"]["says"]
    assert found["settings"]["fix"]
    assert found["engine"]["level"] == "fail"
    assert done.returncode == 1


def test_settings_that_cannot_be_read_are_one_finding_of_many(tmp_path: Path) -> None:
    """As those that root has written are for others; here no file can have the name."""
    done = doctor(tmp_path, JSON="1", TORCHROOM_STATE_DIR=f"{tmp_path}/{'x' * 300}")
    found = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert found["settings"]["level"] == "fail"
    assert "too long" in found["settings"]["says"]


def test_only_1_asks_for_json(tmp_path: Path) -> None:
    assert not doctor(tmp_path, JSON="0").stdout.startswith("{")


def test_a_reader_who_has_seen_enough_ends_it_quietly(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy/doctor.py")],
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.stderr == ""


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

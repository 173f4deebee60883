"""The deployment's own decisions: settings, variables, failures, compose file."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from steps import compose, engine, gpus, health, ports, settings, tls
from testbed.engine import wait_until
from toolbox import client, console
from toolbox.command import Result
from toolbox.console import Failure
from toolbox.turns import taking_turns
from torchroom.settings import LEDGER_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("COMPOSE_PROJECT_NAME", "TORCHROOM_PORT", "TORCHROOM_SIMULATED_GPUS")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in os.environ if n.startswith("TORCHROOM_")] + list(NAMES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCHROOM_STATE_DIR", str(tmp_path / "state"))
    # what settings.read() puts into the environment is undone as well
    monkeypatch.setattr(os, "environ", os.environ.copy())


class TestSettings:
    """A person's settings are read, and wrong ones are refused with a sentence."""

    def test_defaults(self, tmp_path: Path) -> None:
        assert settings.read(tmp_path / "none") == settings.Settings(
            "torchroom", 8000, "torchroom_servers", 0, ""
        )

    def test_a_mistyped_name_is_refused(self, tmp_path: Path) -> None:
        """Compose would leave it out, and let in more than its writer meant."""
        file = tmp_path / ".env"
        file.write_text("TORCHROOM_OAUTH_DOMIAN=school.example\n")
        with pytest.raises(Failure) as caught:
            settings.read(file)
        assert "TORCHROOM_OAUTH_DOMIAN" in str(caught.value)
        assert "did you mean TORCHROOM_OAUTH_DOMAIN?" in caught.value.todo
        assert "TORCHROOM_OAUTH_DOMIAN" not in os.environ

    def test_env_file_counts_and_the_shell_wins(self, tmp_path: Path) -> None:
        file = tmp_path / ".env"
        file.write_text("TORCHROOM_PORT=9000\nTORCHROOM_SIMULATED_GPUS=4\n")
        os.environ["TORCHROOM_PORT"] = "9001"
        read = settings.read(file)
        assert (read.port, read.simulated) == (9001, 4)

    def test_an_empty_variable_is_no_setting(self, tmp_path: Path) -> None:
        file = tmp_path / ".env"
        file.write_text("TORCHROOM_PORT=9000\n")
        os.environ["TORCHROOM_PORT"] = ""
        assert settings.read(file).port == 9000

    @pytest.mark.parametrize(
        ("line", "value"),
        [
            ("A=1", "1"),
            ("export A = 1", "1"),
            ("A='x # y' # why", "x # y"),
            ('A="x"', "x"),
            ("A=x#y # why", "x#y"),
            ("A=", ""),
            ("A=# why", ""),
        ],
    )
    def test_lines_are_read_as_people_write_them(self, line: str, value: str) -> None:
        assert settings.parse(f"# A=0\n\n{line}\n") == {"A": value}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("TORCHROOM_PORT", "0"),
            ("TORCHROOM_PORT", "65536"),
            ("TORCHROOM_PORT", "http"),
            ("TORCHROOM_SIMULATED_GPUS", "-1"),
            ("TORCHROOM_SIMULATED_GPUS", "33"),
            ("COMPOSE_PROJECT_NAME", "My Room"),
        ],
    )
    def test_wrong_values_are_refused_by_name(
        self, tmp_path: Path, name: str, value: str
    ) -> None:
        os.environ[name] = value
        with pytest.raises(Failure, match=name) as raised:
            settings.read(tmp_path / "none")
        assert raised.value.todo

    def test_files_are_named_from_the_repository(self, tmp_path: Path) -> None:
        """Compose and the engine need the whole path."""
        assert settings.files() == {}
        os.environ["TORCHROOM_PRICES"] = "pyproject.toml"
        (tmp_path / "secret").touch()
        os.environ["TORCHROOM_TOPUP_SECRET_FILE"] = str(tmp_path / "secret")
        assert settings.files() == {
            "TORCHROOM_PRICES": str(ROOT / "pyproject.toml"),
            "TORCHROOM_TOPUP_SECRET_FILE": str(tmp_path / "secret"),
        }

    @pytest.mark.parametrize("value", ["no-such-file.toml", "docs"])
    def test_a_file_that_is_not_there_is_refused_by_name(self, value: str) -> None:
        os.environ["TORCHROOM_PRICES"] = value
        with pytest.raises(Failure, match="TORCHROOM_PRICES is"):
            settings.files()


class TestVariables:
    """compose.env: private, complete, and with secrets that stay."""

    def write(self, **values: str) -> dict[str, str]:
        wanted = settings.read(Path("/nonexistent"))
        compose.write_variables(wanted, values)
        return compose.read_variables()

    def test_only_its_owner_reads_it(self, tmp_path: Path) -> None:
        self.write()
        mode = (tmp_path / "state" / "compose.env").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600

    def test_secrets_are_made_once(self) -> None:
        first = self.write()["CONFIGPROXY_AUTH_TOKEN"]
        assert len(first) == 64
        assert self.write()["CONFIGPROXY_AUTH_TOKEN"] == first
        compose.forget()
        assert self.write()["CONFIGPROXY_AUTH_TOKEN"] != first

    def test_a_setting_in_the_shell_arrives(self) -> None:
        os.environ["TORCHROOM_GPU_DRIVER"] = "cdi"
        assert self.write()["TORCHROOM_GPU_DRIVER"] == "cdi"

    def test_values_with_blanks_survive(self) -> None:
        path = "/srv/my room/docker.sock"
        written = self.write(TORCHROOM_ENGINE_SOCKET=path)
        assert written["TORCHROOM_ENGINE_SOCKET"] == path

    @pytest.mark.parametrize(
        "value",
        [
            "smtp://o'neil:x@mail",
            "a b\nTORCHROOM_GATE_CAPS=SETUID",
            "a b\rc",
            "a b\u2028c",
            "a b\\",
        ],
    )
    def test_a_value_that_would_be_read_otherwise_is_refused_by_name(
        self, value: str
    ) -> None:
        os.environ["TORCHROOM_SMTP_URL"] = value
        with pytest.raises(Failure, match="TORCHROOM_SMTP_URL has an apostrophe"):
            self.write()

    @pytest.mark.parametrize("value", ['a "b" $c #d', "x\\y z", "$(id)"])
    def test_what_is_not_refused_is_read_back_as_it_was(self, value: str) -> None:
        os.environ["TORCHROOM_SMTP_URL"] = value
        assert self.write()["TORCHROOM_SMTP_URL"] == value


class TestComposeFailures:
    """What Compose says is turned into what to do."""

    @pytest.mark.parametrize(
        ("said", "word", "todo"),
        [
            (
                "Bind for 127.0.0.1:8000 failed: port is already allocated",
                "8000",
                "PORT",
            ),
            (
                "listen tcp4 127.0.0.1:8000: bind: address already in use",
                "8000",
                "PORT",
            ),
            ("No such image: torchroom/hub:9", "image", "make images"),
            (
                "Pool overlaps with other one on this address space",
                "TORCHROOM_SUBNET",
                "private",
            ),
            (
                "Bind for 0.0.0.0:8444 failed: port is already allocated",
                "8444",
                "TORCHROOM_HTTPS_PORT",
            ),
            (
                "listen tcp4 :80: bind: address already in use",
                "80 is taken",
                "TORCHROOM_HTTP_PORT",
            ),
            ("something else", "something else", "again"),
        ],
    )
    def test_sentence(
        self, monkeypatch: pytest.MonkeyPatch, said: Any, word: str, todo: str
    ) -> None:
        wanted = settings.read(Path("/nonexistent"))
        ports = {"TORCHROOM_HTTP_PORT": "80", "TORCHROOM_HTTPS_PORT": "8444"}
        compose.write_variables(wanted, ports)
        monkeypatch.setattr(compose, "run", lambda *_args: Result(1, "", said))
        with pytest.raises(Failure, match=word) as raised:
            compose.must(["docker-compose"], wanted, "up")
        assert todo in raised.value.todo

    def test_a_firewall_that_is_not_in_place_says_why_itself(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = settings.read(Path("/nonexistent"))
        failed = "dependency failed to start: container x-firewall-1 is unhealthy"
        monkeypatch.setattr(compose, "run", lambda *_args: Result(1, "", failed))
        said = {"ps": "1234\n", "logs": "the firewall is not in place: it rains.\n"}
        monkeypatch.setattr(
            compose, "try_docker", lambda word, *_: Result(0, said[word], "")
        )
        with pytest.raises(Failure, match="it rains") as raised:
            compose.must(["docker-compose"], wanted, "up")
        assert "isolation.md" in raised.value.todo


class TestFailures:
    """A command ends with sentences and a status, never with a traceback."""

    @pytest.mark.parametrize(
        "error",
        [
            Failure("it rains", "take a coat"),
            OSError("it rains"),
            PermissionError("it is root's"),
            KeyboardInterrupt(),
        ],
    )
    def test_exit_status_and_words(
        self, capsys: pytest.CaptureFixture[str], error: BaseException
    ) -> None:
        def main() -> None:
            raise error

        with pytest.raises(SystemExit) as ended:
            console.as_command(main)
        out = capsys.readouterr().out
        assert ended.value.code == 1
        assert "Failed: " in out
        assert "Next: " in out
        assert ("as root" in out) is isinstance(error, PermissionError)
        assert "Traceback" not in out

    def test_words_that_a_terminal_cannot_show_are_shown_otherwise(self) -> None:
        program = "from toolbox import console; console.as_command(lambda: print('ö'))"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT / "deploy"),
                "PYTHONIOENCODING": "ascii",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "\\xf6\n", "")

    @pytest.mark.parametrize("command", ["up", "down", "purge"])
    def test_an_engine_elsewhere_is_refused(self, tmp_path: Path, command: str) -> None:
        env = {
            **os.environ,
            "DOCKER_HOST": f"unix://{tmp_path}/none.sock",
            "FORCE": "1",
        }
        done = subprocess.run(
            ["python3", str(ROOT / "deploy" / f"{command}.py")],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "Failed: " in done.stdout
        assert "Next: " in done.stdout
        assert "Traceback" not in done.stdout + done.stderr


STOPPED = """
import signal, sys, tempfile
from pathlib import Path
from toolbox import command, console

# Who started these tests may ignore them, and what they start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

def main() -> None:
    show = lambda text, _=0.0: print(text, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        show(folder)
        program = ["sh", "-c", f"echo $$ | tee {folder}/pid; exec sleep 60"]
        if sys.argv[1] == "follow":
            command.follow(program, log=Path(folder) / "log", line=show)
        else:
            command.attempt(program)

console.as_command(main)
"""


class TestStopping:
    """Whoever stops a command leaves no program and no secret behind."""

    @pytest.mark.parametrize("way", ["follow", "attempt"])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_programs_end_and_folders_go(
        self, way: str, number: signal.Signals
    ) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", STOPPED, way],
            env={**os.environ, "PYTHONPATH": str(ROOT / "deploy")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as command:
            assert command.stdout
            folder = Path(command.stdout.readline().strip())
            pid_file = folder / "pid"
            wait_until(
                lambda: pid_file.is_file() and pid_file.read_text().strip(),
                what="the program runs",
                within_s=30,
            )
            pid = pid_file.read_text().strip()
            command.send_signal(number)
            out, err = command.communicate(timeout=30)
        assert command.returncode == 1
        assert "Failed: stopped" in out
        assert "Next: " in out
        assert not err
        assert not folder.exists()
        assert not Path(f"/proc/{pid}").exists()


class TestTurns:
    """Two commands on one deployment take turns."""

    def test_the_second_waits_and_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lock = tmp_path / "state" / "lock"
        order: list[str] = []

        def second() -> None:
            with taking_turns(lock, "works on this deployment"):
                order.append("second")

        thread = threading.Thread(target=second)
        with taking_turns(lock, "works on this deployment"):
            thread.start()
            wait_until(
                lambda: "waiting for it" in capsys.readouterr().out,
                what="the second says that it waits",
                within_s=30,
            )
            order.append("first")
        thread.join()
        assert order == ["first", "second"]


class TestPorts:
    """A port that another program has is told before anything is built."""

    @pytest.fixture
    def taken(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]

    def check(self, monkeypatch: pytest.MonkeyPatch, port: int, held: str = "") -> None:
        monkeypatch.setattr(ports, "docker", lambda *_: held)
        os.environ["TORCHROOM_PORT"] = str(port)
        ports.check(settings.read(Path("/nonexistent")), tls.read(os.environ))

    def test_taken_by_a_stranger(
        self, monkeypatch: pytest.MonkeyPatch, taken: int
    ) -> None:
        with pytest.raises(Failure, match=f"port {taken} is taken") as raised:
            self.check(monkeypatch, taken)
        assert "TORCHROOM_PORT" in raised.value.todo

    def test_of_the_https_ports_the_setting_is_named(
        self, monkeypatch: pytest.MonkeyPatch, taken: int
    ) -> None:
        os.environ["TORCHROOM_PUBLIC_URL"] = "https://hub.example.org"
        os.environ["TORCHROOM_TLS"] = "acme"
        os.environ["TORCHROOM_HTTP_PORT"] = str(taken)
        with pytest.raises(Failure, match=f"port {taken} is taken") as raised:
            self.check(monkeypatch, 8123)
        assert "TORCHROOM_HTTP_PORT" in raised.value.todo

    def test_held_by_this_deployment(
        self, monkeypatch: pytest.MonkeyPatch, taken: int
    ) -> None:
        self.check(monkeypatch, taken, held=f"127.0.0.1:{taken}->8000/tcp")


class TestSocket:
    """The engine's socket follows DOCKER_HOST."""

    def test_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        assert str(client.socket_path()) == "/var/run/docker.sock"

    def test_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", "unix:///run/other.sock")
        assert str(client.socket_path()) == "/run/other.sock"

    def test_another_machine_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.1:2375")
        with pytest.raises(Failure, match="on this machine"):
            client.socket_path()


class TestGpus:
    """The hub gets NVIDIA's runtime where the engine has it, and nothing where not."""

    def wanted(self) -> settings.Settings:
        return settings.read(Path("/nonexistent"))

    def test_real_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpus, "docker_json", lambda _: {"Runtimes": {"nvidia": {}}})
        values, _ = gpus.variables(self.wanted())
        assert values == {"TORCHROOM_HUB_RUNTIME": "nvidia"}

    @pytest.mark.parametrize(
        ("runtimes", "simulated", "has"),
        [
            ({"nvidia": {}}, 0, True),
            ({"nvidia": {}}, 2, False),
            ({"runc": {}}, 0, False),
        ],
    )
    def test_with_real_ones_users_get_cuda(
        self,
        monkeypatch: pytest.MonkeyPatch,
        runtimes: dict[str, Any],
        simulated: int,
        has: bool,
    ) -> None:
        os.environ["TORCHROOM_SIMULATED_GPUS"] = str(simulated)
        monkeypatch.setattr(gpus, "docker_json", lambda _: {"Runtimes": runtimes})
        assert gpus.are_real(self.wanted()) is has

    def test_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpus, "docker_json", lambda _: {"Runtimes": {"runc": {}}})
        values, said = gpus.variables(self.wanted())
        assert values == {}
        assert "CPU" in said

    def test_a_driver_without_the_runtime_is_told(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(gpus, "docker_json", lambda _: {"Runtimes": {}})
        monkeypatch.setattr(gpus, "_DRIVER", ROOT)
        gpus.variables(self.wanted())
        assert "nvidia-container-toolkit" in capsys.readouterr().out

    def simulate(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        *,
        finds: bool | None,
        info: dict[str, Any],
    ) -> dict[str, str]:
        os.environ["TORCHROOM_SIMULATED_GPUS"] = "2"
        folder = tmp_path / "state" / "simulation"
        (folder / "cdi").mkdir(parents=True)
        (folder / "cdi" / "spec.json").write_text("{}")
        monkeypatch.setattr(gpus, "docker_json", lambda _: info)
        monkeypatch.setattr(gpus, "_made", lambda _: 2)
        monkeypatch.setattr(engine, "finds", lambda _: finds)
        monkeypatch.setattr(engine, "ours", lambda: 0)
        return gpus.variables(self.wanted())[0]

    def test_simulated_ones_through_the_hook(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        values = self.simulate(monkeypatch, tmp_path, finds=True, info={})
        assert values["TORCHROOM_SIMULATION_DIR"] == str(tmp_path / "state/simulation")
        assert values["TORCHROOM_HUB_RUNTIME"] == "runc"
        assert "TORCHROOM_GPU_DRIVER" not in values

    def test_simulated_ones_through_cdi(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        info = {"CDISpecDirs": [str(tmp_path / "etc-cdi")]}
        values = self.simulate(monkeypatch, tmp_path, finds=False, info=info)
        assert values["TORCHROOM_GPU_DRIVER"] == "cdi"
        assert (tmp_path / "etc-cdi" / gpus.SPEC).is_file()

    def test_an_engine_that_offers_neither_is_told(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.simulate(monkeypatch, tmp_path, finds=None, info={})
        assert "on its PATH" in capsys.readouterr().out

    def test_what_the_hub_sees_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = {"index": 0, "uuid": "GPU-1", "name": "H", "memory_bytes": 0}
        said = json.dumps({"devices": [gpu]})
        monkeypatch.setattr(gpus, "try_docker", lambda *_: Result(0, said, ""))
        assert gpus.found("hub", simulated=True)[0].startswith("1 (simulated")
        monkeypatch.setattr(gpus, "try_docker", lambda *_: Result(1, "", "boom"))
        assert "unknown" in gpus.found("hub", simulated=True)[0]


class TestWhyTheHubEnded:
    """What `make up` says when the hub does not come."""

    def test_a_setting_that_it_refuses_is_said_in_its_sentence(self) -> None:
        """JupyterHub indents the traceback below a line of its own."""
        sentence = "TORCHROOM_LOGIN is local, but TORCHROOM_TLS is files."
        log = f"""
[I 2026-11-22 20:00:00.000 JupyterHub app:3350] Running JupyterHub version 6.1.1
[E 2026-11-22 20:00:00.100 JupyterHub app:4090]
    Traceback (most recent call last):
      File "app.py", line 4087, in launch_instance_async
        await self.initialize(argv)
    torchroom.settings.SettingError: {sentence}

"""
        assert health.why_ended(log) == sentence

    @pytest.mark.parametrize(
        ("log", "words"),
        [
            ("starting\nValueError: no\n", "ValueError: no"),
            ("[C 2026 JupyterHub] no proxy\nbye\n", "[C 2026 JupyterHub] no proxy"),
            ("killed\n", "killed"),
            ("", "it said nothing"),
        ],
    )
    def test_else_the_last_line_that_says_most(self, log: str, words: str) -> None:
        assert health.why_ended(log) == words


class TestComposeFile:
    """What docker-compose.yml promises."""

    @pytest.fixture
    def services(self) -> dict[str, Any]:
        text = (ROOT / "docker-compose.yml").read_text()
        read: dict[str, Any] = yaml.safe_load(text)["services"]
        return read

    def test_the_hub_is_told_where_servers_and_the_proxy_are(
        self, services: dict[str, Any]
    ) -> None:
        """Or it would take a server's login for one of the proxy's."""
        hub = services["hub"]["environment"]
        subnet = services["firewall"]["environment"]["TORCHROOM_SUBNET"]
        assert hub["TORCHROOM_SUBNET"] == subnet
        networks = services["proxy"]["networks"]
        address = networks["servers"]["ipv4_address"]
        assert hub["TORCHROOM_PROXY_ADDRESS"] == address

    def test_only_loopback_is_published(self, services: dict[str, Any]) -> None:
        ports = {n: s["ports"] for n, s in services.items() if "ports" in s}
        opened = ports.pop("tls")
        assert ports
        assert all(port.startswith("127.0.0.1:") for p in ports.values() for port in p)
        assert services["tls"]["profiles"] == ["https"]
        for port in opened:  # by make up, for an address that is not this machine's
            assert port.startswith("${TORCHROOM_TLS_ADDRESS-127.0.0.1:}")

    @pytest.mark.parametrize("name", ["proxy", "hub", "tls", "engine-gate", "firewall"])
    def test_least_rights(self, services: dict[str, Any], name: str) -> None:
        service = services[name]
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert "no-new-privileges:true" in service["security_opt"]
        assert "privileged" not in service
        if name == "tls":  # may have to be the owner of a key
            assert service["user"] == "${TORCHROOM_TLS_USER:-1000:1000}"
            assert service["networks"] == ["default"]
        elif name == "engine-gate":  # the hub must not be able to debug it
            assert service["user"] == "61001:61000"
        else:
            assert "user" not in service  # the image's own

    def test_the_proxys_api_is_not_on_the_servers_network(
        self, services: dict[str, Any]
    ) -> None:
        assert "--api-ip=proxy-api" in services["proxy"]["command"]
        networks = services["proxy"]["networks"]
        assert networks["default"]["aliases"] == ["proxy-api"]
        assert set(networks["servers"]) == {"ipv4_address"}

    def test_only_the_gate_reaches_the_engine(self, services: dict[str, Any]) -> None:
        holders = [
            n for n, s in services.items() if "docker.sock" in str(s.get("volumes"))
        ]
        assert holders == ["engine-gate"]
        assert services["engine-gate"]["network_mode"] == "none"
        assert "group_add" not in services["hub"]
        given = services["hub"]["environment"]["DOCKER_HOST"]
        assert given == "unix:///run/torchroom-engine/docker.sock"
        assert "engine-gate:/run/torchroom-engine:ro" in services["hub"]["volumes"]

    def test_what_people_set_about_tokens_reaches_the_hub(
        self, services: dict[str, Any]
    ) -> None:
        """Every variable that the ledger reads; files come in as mounts."""
        hub = services["hub"]
        assert set(LEDGER_VARIABLES) <= set(hub["environment"])
        mounts = {m["target"]: m for m in hub["volumes"] if isinstance(m, dict)}
        for name in ("TORCHROOM_PRICES", "TORCHROOM_TOPUP_SECRET_FILE"):
            mount = mounts[hub["environment"][name]]
            assert mount["source"].startswith(f"${{{name}:-")
            assert mount["read_only"] is True
            assert mount["bind"] == {"create_host_path": False}

    def test_the_example_prices_are_where_compose_mounts_them_from(self) -> None:
        text = (ROOT / "docker-compose.yml").read_text()
        found = re.search(r"\$\{TORCHROOM_PRICES:-(.*?)\}", text)
        assert found
        assert (ROOT / found[1]).is_file()

    def test_gpus_are_for_looking_at_only(self, services: dict[str, Any]) -> None:
        hub = services["hub"]["environment"]
        assert hub["NVIDIA_DRIVER_CAPABILITIES"] == "utility"

    def test_every_variable_is_documented(self) -> None:
        documented = (ROOT / ".env.example").read_text()
        used = set(
            re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text())
        )
        for path in [*(ROOT / "deploy").rglob("*.py"), *(ROOT / "images").glob("*.py")]:
            used |= set(
                re.findall(r'"(TORCHROOM_[A-Z_]+|TORCH_[A-Z_]+)"', path.read_text())
            )
        missing = sorted(name for name in used if name not in documented)
        assert missing == []


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))
    shown = subprocess.run(
        ["make", "-s", "-C", str(ROOT)], capture_output=True, text=True, check=True
    ).stdout
    assert targets == set(re.findall(r"^  ([a-z-]+) ", shown, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    assert targets == set(phony[1].split())

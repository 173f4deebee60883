"""A hub as a process of the host's own, with simulated GPUs of its own.

For tests that break GPUs, read them every second, or need other settings than the
deployment's: quick to start, nothing it does to its GPUs is seen by anybody else's hub,
and it can be killed while its proxy and its users' servers go on.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

import docker
import requests

from testbed.engine import wait_until
from testbed.engine_proxy import EngineProxy
from testbed.gpu.state import Gpu, GpuState, edit
from testbed.hub import Deployment, Lease, User
from testbed.tokens import Ledger, Tokens

ROOT = Path(__file__).resolve().parents[2]
LOGS = Path(os.environ.get("TORCHROOM_TEST_CACHE", ROOT / ".cache")) / "logs"
BRIDGE = "172.17.0.1"  # where containers of the run's engine reach its host
PASSWORD = "for-this-test-only"
ENDS_WITHIN_S = 30
SEEN_WITHIN_S = 30

CONFIGURATION = """
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_ip = "{bridge}"
c.JupyterHub.hub_port = {hub_port}
c.JupyterHub.cleanup_servers = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.concurrent_spawn_limit = 0
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "{password}"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {{"admin"}}
c.JupyterHub.spawner_class = "gpu-docker"
c.Spawner.poll_interval = 1
c.Spawner.http_timeout = 60
c.GPUDockerSpawner.hub_id = "{name}"
c.GPUDockerSpawner.image = "{image}"
c.GPUDockerSpawner.use_internal_ip = True
c.GPUDockerSpawner.gpu_driver = "nvidia"
c.GPUDockerSpawner.sample_interval = 1.0
"""
# What a hub with tokens has instead of the plugin's class.
LEDGER = """
import os
from pathlib import Path
from torchroom import metering, settings
from torchroom.console import scopes
from torchroom.ledger.policy import Policy
here = settings.read_ledger(os.environ)
policy = Policy(
    hold_s={hold_s},
    warn_s={warn_s},
    stop_lead_s={stop_lead_s},
    welcome=here.policy.welcome,
)
ledger = metering.open_ledger(here, policy=policy)
url = "http://{bridge}:{console_port}"
c.JupyterHub.spawner_class = metering.spawner_class(
    ledger, url + metering.API
)
c.GPUDockerSpawner.meter_interval = 1.0
c.JupyterHub.custom_scopes = scopes.CUSTOM_SCOPES
c.JupyterHub.extra_user_scopes = {{scopes.EVERYBODY}}
c.Spawner.server_token_scopes = list(scopes.SERVER)
c.JupyterHub.services = [
    {{
        "name": scopes.SERVICE,
        "url": url,
        "command": metering.CONSOLE,
        "environment": settings.of_console(os.environ),
        "oauth_no_confirm": True,
        "oauth_client_allowed_scopes": list(scopes.OF_PAGE),
    }}
]
c.JupyterHub.load_roles = [
    {{
        "name": "console",
        "scopes": list(scopes.OF_SERVICE),
        "services": [scopes.SERVICE],
    }},
    {{"name": "token-admin", "scopes": [scopes.ADMIN], "users": ["admin"]}},
]
"""
NONE: Mapping[str, str] = MappingProxyType({})


def own(gpus: Sequence[Gpu]) -> list[Gpu]:
    """The same GPUs and MIG instances with UUIDs that no other machine has."""
    found = []
    for gpu in gpus:
        uuid = f"GPU-{uuid4()}"
        migs = [replace(mig, gpu=uuid, uuid=f"MIG-{uuid4()}") for mig in gpu.migs]
        links = [replace(link, uuid=uuid) for link in gpu.links]
        since = time.time_ns() // 1000  # lets the energy counter run
        found.append(replace(gpu, uuid=uuid, migs=migs, links=links, since=since))
    return found


@dataclass
class HubProcess(Deployment):
    """A hub whose process the test holds; otherwise like a deployment."""

    command: list[str] = field(default_factory=list)
    process_environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    has_ledger: bool = False

    @property
    def gpus(self) -> GpuState:
        """Its GPUs as they are now; change them with `change`."""
        return GpuState.load(self.gpu_dir / "state")

    def change(self) -> contextlib.AbstractContextManager[GpuState]:
        """Change its GPUs: ``with hub.change() as gpus: gpus.lose(uuid)``."""
        return edit(self.gpu_dir / "state")

    def begin(self) -> None:
        """Start the process and wait until it answers."""
        with (self.root / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.root,
                env=self.process_environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        process = self.process
        wait_until(
            lambda: self.is_up() or process.poll() is not None,
            what="the hub answers",
            within_s=60,
        )
        assert process.poll() is None, self.hub_log()[-4000:]
        if self.has_ledger:
            self.ledger.wait_up()

    def end(self) -> None:
        """End the process, as an admin does."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(ENDS_WITHIN_S)

    def kill_hub(self) -> None:
        """End the process without warning and start it again, as its machine does.

        What it held of the proxy is dropped before.
        """
        self.crash()
        self.proxy.clear()
        self.begin()

    def crash(self) -> None:
        """End the process without warning."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(ENDS_WITHIN_S)

    def forget_faults(self) -> None:
        """Let a new hub begin with healthy GPUs; one that fell twice is kept back."""
        self.end()
        (self.root / "gpuspawner-health.json").unlink(missing_ok=True)
        self.begin()

    def kill_reader(self) -> None:
        """End the hub's process that reads the GPUs, as a driver's fault does."""
        reader = wait_until(self._reader, what="it reads", within_s=SEEN_WITHIN_S)
        os.kill(reader, signal.SIGKILL)

    def _reader(self) -> int:
        """The PID of the process that reads the GPUs, 0 if there is none just now."""
        assert self.process is not None
        folder = Path(f"/proc/{self.process.pid}/task")
        pids = b" ".join(map(_read, folder.glob("*/children"))).decode().split()
        commands = {pid: _read(Path(f"/proc/{pid}/cmdline")) for pid in pids}
        found = (pid for pid in pids if b"gpuspawner.nvml" in commands[pid])
        return int(next(found, 0))

    @property
    def ledger(self) -> Ledger:
        """Its ledger, if it has one."""
        return Ledger(self, self.process_environment["TORCHROOM_LEDGER_URL"])

    def hub_log(self) -> str:
        """Everything the hub printed."""
        return (self.root / "hub.log").read_text(errors="replace")

    def wait_for_log(self, text: str) -> None:
        """Wait until the hub has logged this."""
        wait_until(
            lambda: text in self.hub_log(), what=f"log: {text}", within_s=SEEN_WITHIN_S
        )

    def kept(self, name: str) -> str:
        """A file that outlives the hub, "" if it is not there."""
        path = self.root / f"gpuspawner-{name}.json"
        return path.read_text() if path.exists() else ""

    def is_queued(self, user: User) -> bool:
        """Does the hub keep a ticket of this user?"""
        kept = json.loads(self.kept("queue") or "{}")
        tickets = kept.get("queue", {}).get("tickets", [])
        return any(ticket["owner"]["user"] == user.name for ticket in tickets)

    def finding(self, uuid: str) -> str:
        """The state of a GPU as the hub keeps it over a restart."""
        records = json.loads(self.kept("health") or "{}").get("devices", {})
        return str(records.get(uuid, {}).get("judged", ""))

    def wait_for_state(
        self, uuid: str, state: str, *, within_s: float = SEEN_WITHIN_S
    ) -> None:
        """Wait until the hub judges a GPU to be in this state."""
        wait_until(
            lambda: self.finding(uuid) == state,
            what=f"{uuid} is {state}",
            within_s=within_s,
        )


MakeHub = Callable[..., contextlib.AbstractContextManager[HubProcess]]


@contextlib.contextmanager
def waiting(user: User, offer: str) -> Iterator["Future[Lease]"]:
    """A start that goes on meanwhile; it is waited for when this is left."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(user.start, offer)


def clear(engine: docker.DockerClient, name: str) -> None:
    """Remove what is left of a hub of this name: containers and homes."""
    labelled: dict[str, str | list[str] | bool] = {"label": f"gpuspawner.hub={name}"}
    for container in engine.containers.list(
        all=True, filters=labelled, ignore_removed=True
    ):
        with contextlib.suppress(docker.errors.APIError):
            container.remove(force=True, v=True)
    for volume in engine.volumes.list(filters=labelled):
        with contextlib.suppress(docker.errors.APIError):
            volume.remove(force=True)


@contextlib.contextmanager
def hub_process(
    engine: docker.DockerClient,
    engine_socket: Path,
    gpu_dir: Path,
    folder: Path,
    *,
    name: str,
    port: int,
    gpus: Sequence[Gpu],
    configuration: str = "",
    files: Mapping[str, str] = NONE,
    tokens: Tokens | None = None,
) -> Iterator[HubProcess]:
    """A running hub with GPUs of its own; everything of it is gone afterwards.

    Args:
        engine: The run's own.
        engine_socket: Its socket, behind which the fault proxy is put.
        gpu_dir: The run's folder of simulated GPUs; theirs goes below it.
        folder: Where the hub keeps its files.
        name: Its hub id.
        port: It and the next three are used.
        gpus: Its GPUs; see `own`.
        configuration: Further lines of jupyterhub_config.py.
        files: What lies beside it, by name.
        tokens: How it counts tokens; None: it does not.
    """
    machine = gpu_dir / "machines" / name
    GpuState(machine / "state", gpus).write()
    machine.chmod(0o755)
    token = secrets.token_hex(16)
    text = CONFIGURATION.format(
        port=port,
        hub_port=port + 1,
        api_port=port + 2,
        bridge=BRIDGE,
        password=PASSWORD,
        name=name,
        image=os.environ["TORCHROOM_TEST_IMAGE"],
    )
    if tokens is not None:
        text += LEDGER.format(
            bridge=BRIDGE,
            console_port=port + 3,
            hold_s=tokens.hold_s,
            warn_s=tokens.warn_s,
            stop_lead_s=tokens.stop_lead_s,
        )
    (folder / "jupyterhub_config.py").write_text(f"{text}\n{configuration}\n")
    for path, content in files.items():
        (folder / path).write_text(content)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CONFIGPROXY_AUTH_TOKEN": token,
        "LD_LIBRARY_PATH": str(gpu_dir),
        "TORCHROOM_SIMULATED_NVML_STATE": str(machine / "state"),
        "TORCHROOM_SIMULATED_NVML_ALL": "1",
    }
    if tokens is not None:
        environment |= tokens.environment(folder)
    with EngineProxy(engine_socket, engine_socket.parent / f"{name}.sock") as proxy:
        hub = HubProcess(
            root=folder,
            engine=engine,
            proxy=proxy,
            gpu_dir=machine,
            state_dir=folder,
            port=port,
            project=name,
            command=[str(Path(sys.executable).parent / "jupyterhub")],
            has_ledger=tokens is not None,
            process_environment=environment | {"DOCKER_HOST": f"unix://{proxy.path}"},
            _login={
                "user_password": PASSWORD,
                "admin_user": "admin",
                "admin_password": PASSWORD,
            },
        )
        front = engine.containers.run(
            os.environ["TORCHROOM_TEST_PROXY_IMAGE"],
            [
                f"--port={port}",
                "--ip=127.0.0.1",
                f"--api-port={port + 2}",
                "--api-ip=127.0.0.1",
                f"--default-target=http://{BRIDGE}:{port + 1}",
                f"--error-target=http://{BRIDGE}:{port + 1}/hub/error",
            ],
            environment={"CONFIGPROXY_AUTH_TOKEN": token},
            network_mode="host",
            detach=True,
            init=True,
        )
        try:
            wait_until(lambda: _listens(port), what="the proxy listens", within_s=30)
            hub.begin()
            yield hub
        finally:
            hub.end()
            LOGS.mkdir(parents=True, exist_ok=True)
            (LOGS / f"{name}.log").write_text(hub.hub_log())
            front.remove(force=True)
            clear(engine, name)


def _read(path: Path) -> bytes:
    """A file of /proc, nothing if its process or thread has ended."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _listens(port: int) -> bool:
    """Does the proxy answer, whatever it says?"""
    try:
        requests.get(f"http://127.0.0.1:{port}/_chp_healthz", timeout=5)
    except requests.RequestException:
        return False
    return True

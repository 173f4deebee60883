"""Drivers for tests: a deployment made by ``make up``, and its users over HTTP.

Nothing here knows the product's code. What is leased is read from the engine (the
containers are the truth, DESIGN.md section 3), what a user sees from the hub's REST API
and pages.
"""

import asyncio
import contextlib
import functools
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import docker
import requests
from docker.models.containers import Container

from testbed.engine import wait_until
from testbed.engine_proxy import EngineProxy

MAKE_WITHIN_S = 600.0
READY_WITHIN_S = 90.0
GONE_WITHIN_S = 45.0
HUB_WITHIN_S = 60.0
RUNS_WITHIN_S = 30.0
REQUEST_TIMEOUT_S = 60.0
NOTE = "/home/jovyan/ABOUT-YOUR-GPU.txt"
LOGIN_FILE = "/srv/torchroom/data/local-login.json"

_numbers = itertools.count(1)

JSON = dict[str, Any]


class RefusedError(Exception):
    """The hub did not start a server; the text is what the user reads."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Lease:
    """What a server's container says about itself."""

    container: str
    running: bool
    user: str
    server: str
    id: str
    devices: tuple[str, ...]


def read_lease(container: Container) -> Lease:
    """The lease that a container's labels describe."""
    labels = container.labels
    return Lease(
        container=str(container.id),
        running=container.status == "running",
        user=labels["gpuspawner.user"],
        server=labels["gpuspawner.server"],
        id=labels["gpuspawner.lease"],
        devices=tuple(filter(None, labels["gpuspawner.devices"].split(","))),
    )


def execute(
    container: Container, command: Sequence[str], *, user: str = ""
) -> tuple[int, str]:
    """Run a command in a container; (exit status, output)."""
    done = container.exec_run(list(command), user=user)
    assert isinstance(done.output, bytes)
    return done.exit_code or 0, done.output.decode(errors="replace")


@dataclass
class Deployment:
    """Torchroom as ``make up`` starts it, behind the fault proxy."""

    root: Path
    engine: docker.DockerClient
    proxy: EngineProxy
    gpu_dir: Path
    state_dir: Path
    port: int
    project: str
    settings: dict[str, str] = field(default_factory=dict)
    """Further variables of .env.example."""
    last_output: str = ""
    _login: JSON = field(default_factory=dict)

    # ---- make

    @property
    def environment(self) -> dict[str, str]:
        """What distinguishes this deployment from any other on the machine."""
        return os.environ | {
            "TORCHROOM_STATE_DIR": str(self.state_dir),
            "TORCHROOM_PORT": str(self.port),
            "COMPOSE_PROJECT_NAME": self.project,
            "TORCHROOM_SUBNET": self.subnet,
            "TORCHROOM_SIMULATED_GPUS": "4",
            "TORCHROOM_SIMULATION_DIR": str(self.gpu_dir),
            "TORCHROOM_ENGINE_SOCKET": str(self.proxy.path),
            **self.settings,
        }

    @property
    def subnet(self) -> str:
        """The servers' addresses; two deployments on one engine need two."""
        return f"10.117.{(self.port - 8000) // 10 % 16 * 16}.0/20"

    def make(
        self, target: str, *, answer: str = "", accept_failure: bool = False
    ) -> str:
        """Run ``make TARGET`` and return what it printed; fail if it fails."""
        done = subprocess.run(
            ["make", "-s", "--no-print-directory", target],
            check=False,
            cwd=self.root,
            env=self.environment,
            input=answer,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=MAKE_WITHIN_S,
        )
        self.last_output = done.stdout
        ok = accept_failure or done.returncode == 0
        assert ok, f"make {target}:\n{done.stdout[-4000:]}"
        return done.stdout

    def up(self) -> str:
        """Start it (or do nothing, if it runs)."""
        return self.make("up")

    # ---- its containers

    def service(self, name: str) -> Container:
        """The container of a compose service."""
        labels = [
            f"com.docker.compose.project={self.project}",
            f"com.docker.compose.service={name}",
        ]
        found = self.engine.containers.list(all=True, filters={"label": labels})
        assert len(found) == 1, f"service {name}: {found}"
        return found[0]

    def servers(self, **labels: str) -> list[Container]:
        """User servers' containers, running or not; by user= and server=."""
        wanted = [f"gpuspawner.hub={self.project}"]
        wanted += [f"gpuspawner.{key}={value}" for key, value in labels.items()]
        return self.engine.containers.list(
            all=True, filters={"label": wanted}, ignore_removed=True
        )

    def leases(self) -> list[Lease]:
        """The lease of every container; fails if two running ones share a device."""
        leases = [read_lease(container) for container in self.servers()]
        held = [uuid for lease in leases if lease.running for uuid in lease.devices]
        assert len(held) == len(set(held)), f"I1: a GPU is leased twice: {leases}"
        return leases

    def leases_of(self, user: "User") -> list[Lease]:
        """The leases of one user's containers."""
        return [lease for lease in self.leases() if lease.user == user.name]

    def homes(self, **labels: str) -> list[Any]:
        """The home volumes, by user= and server=."""
        wanted = [f"gpuspawner.hub={self.project}"]
        wanted += [f"gpuspawner.{key}={value}" for key, value in labels.items()]
        return self.engine.volumes.list(filters={"label": wanted})

    # ---- its hub

    @property
    def url(self) -> str:
        """The address that people open."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def login(self) -> JSON:
        """The local login's passwords."""
        if not self._login:
            command = ["cat", LOGIN_FILE]
            self._login = json.loads(execute(self.service("hub"), command)[1])
        return self._login

    def hub_log(self) -> str:
        """Everything the hub printed."""
        return str(self.service("hub").logs().decode(errors="replace"))

    def kill_hub(self) -> None:
        """End the hub's process without warning, as a crash does."""
        pid = self.service("hub").attrs["State"]["Pid"]
        assert pid > 1
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: self.service("hub").attrs["State"]["Pid"] != pid,
            what="the engine notices that the hub died",
            within_s=10,
        )

    def restart_hub(self) -> None:
        """Ask the hub to end, as an update does, and start it again."""
        self.service("hub").restart(timeout=30)

    def strays(self) -> list[Lease]:
        """Containers that belong to no server the hub lists."""
        leases = self.leases()
        listed = {name: self._listed(name) for name in {x.user for x in leases}}
        return [x for x in leases if x.server not in listed[x.user]]

    def _listed(self, user: str) -> set[str]:
        """The servers that the hub lists for somebody; a list of all is cut at 200."""
        row = self.admin_user.api("GET", f"/users/{user}").json()
        return set(row.get("servers", ()))

    def is_up(self) -> bool:
        """Does the hub answer through the proxy?"""
        try:
            return requests.get(f"{self.url}/hub/api/", timeout=5).ok
        except requests.RequestException:
            return False

    def wait_up(self) -> None:
        """Wait until the hub answers."""
        wait_until(self.is_up, what="the hub answers", within_s=HUB_WITHIN_S)

    def new_user(self, name: str) -> "User":
        """A user that did not exist before, logged in."""
        return User(self, f"{name}{next(_numbers)}")

    def devices(self) -> list[JSON]:
        """The machine's devices as the hub reads them through NVML."""
        command = ["python", "-m", "gpuspawner.nvml", "--json"]
        status, output = execute(self.service("hub"), command)
        assert status == 0, output
        devices: list[JSON] = json.loads(output)["devices"]
        return devices

    @functools.cached_property
    def admin_user(self) -> "User":
        """The local administrator."""
        return User(self, self.login["admin_user"], self.login["admin_password"])


class User:
    """A person with a browser session and an API token."""

    def __init__(
        self, deployment: Deployment, name: str, password: str | None = None
    ) -> None:
        self.deployment = deployment
        self.name = name
        self.password = password or deployment.login["user_password"]
        self.session = requests.Session()
        self._log_in()
        self.token = self._new_token()

    def __repr__(self) -> str:
        return f"<user {self.name}>"

    # ---- session and API

    def _log_in(self) -> None:
        hub = f"{self.deployment.url}/hub"
        self.session.get(f"{hub}/login", timeout=REQUEST_TIMEOUT_S)
        form = {"username": self.name, "password": self.password, "_xsrf": self.xsrf}
        # /hub/token is a page that starts nothing; the default would be the spawn page
        reply = self.session.post(
            f"{hub}/login?next=%2Fhub%2Ftoken", data=form, timeout=REQUEST_TIMEOUT_S
        )
        assert reply.ok, f"{self} could not log in: {reply.status_code}"
        assert "/hub/token" in reply.url, f"{self} landed on {reply.url}"

    @property
    def xsrf(self) -> str:
        """The hub's cookie against forged requests."""
        cookies = [c for c in self.session.cookies if c.name == "_xsrf"]
        hub = [c for c in cookies if c.path.startswith("/hub")]
        return (hub or cookies)[-1].value or ""

    def _new_token(self) -> str:
        reply = self.session.post(
            f"{self.deployment.url}/hub/api/users/{self.name}/tokens",
            headers={
                "X-XSRFToken": self.xsrf,
                "Referer": self.deployment.url + "/hub/",
            },
            json={"note": "test"},
            timeout=REQUEST_TIMEOUT_S,
        )
        assert reply.ok, f"no token for {self}: {reply.status_code} {reply.text}"
        return str(reply.json()["token"])

    def api(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        """One request to the hub's REST API with the user's token."""
        headers = {"Authorization": f"token {self.token}"} | kwargs.pop("headers", {})
        timeout = kwargs.pop("timeout", REQUEST_TIMEOUT_S)
        url = f"{self.deployment.url}/hub/api{path}"
        return requests.request(method, url, headers=headers, timeout=timeout, **kwargs)

    def page(self, path: str) -> str:
        """A page of the hub, as the user's browser gets it, without scripts."""
        reply = self.session.get(
            f"{self.deployment.url}{path}", timeout=REQUEST_TIMEOUT_S
        )
        return reply.text

    # ---- servers

    def _server_path(self, server: str) -> str:
        kind = f"servers/{server}" if server else "server"
        return f"/users/{self.name}/{kind}"

    def request_server(
        self, options: object = None, *, server: str = ""
    ) -> requests.Response:
        """Ask for a server and return the answer, whatever it is."""
        body = {} if options is None else {"user_options": options}
        return self.api("POST", self._server_path(server), json=body)

    def request_server_in_background(self, options: object) -> None:
        """Ask for a server and do not wait: the hub may die over it."""

        def ask() -> None:
            with contextlib.suppress(requests.RequestException):
                self.request_server(options)

        threading.Thread(target=ask, daemon=True).start()

    def start(
        self,
        offer: str = "cpu",
        *,
        server: str = "",
        within_s: float = READY_WITHIN_S,
    ) -> Lease:
        """Start a server and wait until it is ready; raise RefusedError otherwise."""
        reply = self.request_server({"offer": offer}, server=server)
        if not reply.ok:
            raise RefusedError(reply.status_code, message_of(reply))
        last = self.progress(server, within_s=within_s)[-1]
        if not last.get("ready"):
            raise RefusedError(0, str(last.get("message", last)))
        return self.lease(server)

    def progress(
        self, server: str = "", *, within_s: float = READY_WITHIN_S
    ) -> list[JSON]:
        """The progress events until the start ended, as the spawn page shows them."""
        with contextlib.closing(self.watch(server)) as page:
            page.wait_end(within_s)
            return page.events

    def last_progress(self, server: str = "") -> JSON:
        """How the start ended."""
        return self.progress(server)[-1]

    def watch(self, server: str = "") -> "SpawnPage":
        """Open the spawn page of a start; close it when done."""
        return SpawnPage(self, f"/hub/api{self._server_path(server)}/progress")

    def queue(self, offer: str) -> "SpawnPage":
        """Ask for a server that has to wait, as a page does; returns that page."""
        self.request_server_in_background({"offer": offer})
        self.wait_listed()
        page = self.watch()
        page.wait_for("in the queue")
        return page

    def wait_listed(self) -> None:
        """Wait until the default server is being started, or is."""
        wait_until(
            lambda: "" in self.listed(),
            what=f"{self}'s server is being started",
            within_s=REQUEST_TIMEOUT_S,
        )

    def model(self) -> JSON:
        """What the hub says about the user."""
        reply = self.api("GET", f"/users/{self.name}")
        assert reply.ok, f"{self}: {reply.status_code} {reply.text}"
        answer: JSON = reply.json()
        return answer

    def listed(self) -> dict[str, JSON]:
        """The active servers that the hub lists for the user."""
        servers: dict[str, JSON] = self.model()["servers"]
        return servers

    def lease(self, server: str = "") -> Lease:
        """The lease of the user's one running container of this server name."""
        found = self.deployment.servers(user=self.name, server=server)
        assert len(found) == 1, f"{self} has {len(found)} containers"
        return read_lease(found[0])

    def container(self, server: str = "") -> Container:
        """The user's one container of this server name."""
        found = self.deployment.servers(user=self.name, server=server)
        assert len(found) == 1, f"{self} has {len(found)} containers"
        return found[0]

    def is_idle(self) -> bool:
        """Does the user have no active server and no container?"""
        return not self.listed() and not self.deployment.servers(user=self.name)

    def request_stop(self, server: str = "") -> requests.Response:
        """Ask to stop a server and return the answer."""
        return self.api("DELETE", self._server_path(server))

    def request_stop_in_background(self) -> None:
        """Ask to stop the default server and do not wait: the hub may die over it."""

        def ask() -> None:
            with contextlib.suppress(requests.RequestException):
                self.request_stop()

        threading.Thread(target=ask, daemon=True).start()

    def stop(self, server: str = "") -> None:
        """Stop a server and wait until neither hub nor engine has it."""
        reply = self.request_stop(server)
        assert reply.ok, f"{self} could not stop: {reply.status_code} {reply.text}"
        wait_until(
            lambda: (
                server not in self.listed()
                and not self.deployment.servers(user=self.name, server=server)
            ),
            what=f"the server {server!r} of {self.name} is gone",
            within_s=GONE_WITHIN_S,
        )

    # ---- inside the server

    def server_api(
        self, method: str, path: str, *, server: str = "", **kwargs: Any
    ) -> requests.Response:
        """One request to the user's own Jupyter server."""
        at = "/".join(filter(None, ["user", self.name, server]))
        timeout = kwargs.pop("timeout", REQUEST_TIMEOUT_S)
        url = f"{self.deployment.url}/{at}/{path}"
        headers = {"Authorization": f"token {self.token}"}
        return requests.request(method, url, headers=headers, timeout=timeout, **kwargs)

    def answers(self) -> bool:
        """Does the user's own server answer?

        Without a token: now and then it asks the hub about one, which may be dead.
        """
        url = f"{self.deployment.url}/user/{self.name}/api"
        try:
            reply = requests.get(url, allow_redirects=False, timeout=10)
        except requests.RequestException:
            return False
        return reply.status_code == HTTPStatus.OK

    def execute(self, *command: str, user: str = "") -> tuple[int, str]:
        """Run a command in the user's container; (exit status, output)."""
        return execute(self.container(), command, user=user)

    def python(self, code: str) -> str:
        """Run Python code in the user's container; fails if it fails."""
        status, output = self.execute("python3", "-c", code)
        assert status == 0, output
        return output

    def run_program(self, code: str) -> int:
        """Let Python code run on in the user's container; its PID on the host."""
        container = self.container()
        container.exec_run(["python3", "-c", code], detach=True)

        def pid() -> int:
            rows = container.top(ps_args="-eo pid,args")["Processes"]
            return next((int(row[0]) for row in rows if code in row[1]), 0)

        return wait_until(pid, what="the program runs", within_s=RUNS_WITHIN_S)

    def note(self) -> str:
        """The note about the GPU in the user's home, "" if there is none."""
        status, text = self.execute("cat", NOTE)
        return "" if status else text

    def start_kernel(self) -> str:
        """Start a notebook kernel; returns its id."""
        reply = self.server_api("POST", "api/kernels", json={"name": "python3"})
        assert reply.ok, reply.text
        return str(reply.json()["id"])

    def run_in_kernel(self, kernel: str, code: str, *, within_s: float = 60) -> str:
        """Run a cell; returns what it printed, then ``dead`` if the kernel died."""
        return asyncio.run(self._run_in_kernel(kernel, code, within_s))

    async def _run_in_kernel(self, kernel: str, code: str, within_s: float) -> str:
        url = f"{self.deployment.url}/user/{self.name}/api/kernels/{kernel}/channels"
        headers = {"Authorization": f"token {self.token}"}
        async with (
            asyncio.timeout(within_s),
            aiohttp.ClientSession(headers=headers) as session,
            session.ws_connect(url) as socket,
        ):
            header = {
                "msg_id": uuid.uuid4().hex,
                "session": uuid.uuid4().hex,
                "username": self.name,
                "msg_type": "execute_request",
                "version": "5.3",
            }
            content = {"code": code, "silent": False}
            await socket.send_json(
                {
                    "header": header,
                    "parent_header": {},
                    "metadata": {},
                    "content": content,
                    "channel": "shell",
                }
            )
            return await self._collect(socket, header["msg_id"])

    async def _collect(self, socket: Any, msg_id: str) -> str:
        printed = ""
        async for message in socket:
            answer = json.loads(message.data)
            content = answer["content"]
            mine = answer["parent_header"].get("msg_id") == msg_id
            match answer["msg_type"]:
                case "stream" if mine:
                    printed += content["text"]
                case "error" if mine:
                    printed += "\n".join(content["traceback"])
                case "status" if content["execution_state"] in {"restarting", "dead"}:
                    return f"{printed}\ndead"
                case "execute_reply" if mine:
                    return printed
        return f"{printed}\ndead"


class SpawnPage:
    """The stream of events that an open spawn page reads, until it is closed."""

    def __init__(self, user: User, path: str) -> None:
        self.events: list[JSON] = []
        self.status = 0
        self._user = user
        deployment = user.deployment
        connection = http.client.HTTPConnection(
            "127.0.0.1", deployment.port, timeout=REQUEST_TIMEOUT_S
        )
        connection.request(
            "GET", path, headers={"Authorization": f"token {user.token}"}
        )
        self._socket = connection.sock
        self._reader = threading.Thread(
            target=self._read, args=[connection], daemon=True
        )
        self._reader.start()

    def _read(self, connection: http.client.HTTPConnection) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            reply = connection.getresponse()
            self.status = reply.status
            while line := reply.readline():
                if line.startswith(b"data:"):
                    self.events.append(json.loads(line.removeprefix(b"data:")))

    def close(self) -> None:
        """Close the page: its connection ends."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(REQUEST_TIMEOUT_S)
        self._socket.close()

    @property
    def messages(self) -> list[str]:
        """What was shown so far."""
        return [event["message"] for event in self.events if "message" in event]

    @property
    def is_ended(self) -> bool:
        """Did the start end, or the stream?"""
        last = self.events[-1] if self.events else {}
        is_told = bool(last.get("ready") or last.get("failed"))
        return is_told or not self._reader.is_alive()

    def wait_for(self, text: str, within_s: float = READY_WITHIN_S) -> None:
        """Wait until the last message shown contains the text."""

        def is_shown() -> bool:
            return bool(self.messages) and text in self.messages[-1]

        wait_until(
            lambda: is_shown() or self.is_ended,
            what=f"{self._user} reads {text!r}, not {self.messages[-1:]}",
            within_s=within_s,
        )
        assert is_shown(), f"{self._user} reads {self.messages}, not {text!r}"

    def wait_end(self, within_s: float = READY_WITHIN_S) -> JSON:
        """Wait until the start ended; returns how."""
        wait_until(
            lambda: self.is_ended, what=f"{self._user}'s start ended", within_s=within_s
        )
        assert self.events, f"{self._user}: no events, HTTP status {self.status}"
        return self.events[-1]


def message_of(reply: requests.Response) -> str:
    """The sentence of an error answer."""
    try:
        return str(reply.json().get("message", reply.text))
    except ValueError:
        return reply.text


def together(tasks: Iterable[Any]) -> list[Any]:
    """Run callables at the same time; returns results or exceptions, in order."""
    work = list(tasks)

    def attempt(task: Any) -> Any:
        try:
            return task()
        except (
            RefusedError,
            AssertionError,
            TimeoutError,
            requests.RequestException,
        ) as error:
            return error

    with ThreadPoolExecutor(max(1, len(work))) as pool:
        return list(pool.map(attempt, work))


@contextlib.contextmanager
def answering(user: User) -> Iterator[None]:
    """Fails if the user's running server once did not answer in the meantime."""
    assert user.answers(), f"{user} has no server that answers"
    answers: list[bool] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append(user.answers())
            done.wait(0.25)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        yield
    finally:
        done.set()
        asking.join(15)
    missed = answers.count(False)
    assert not missed, f"{user}'s server missed {missed} of {len(answers)} requests"


def stop_servers(deployment: Deployment, users: list[User]) -> None:
    """Stop every server of these users; what does not stop is removed by force.

    A start under way cannot be stopped over REST, so its container is taken away and
    the hub is left to notice.
    """
    deadline = time.monotonic() + GONE_WITHIN_S
    deployment.wait_up()

    def stop(user: User) -> None:
        for server in user.listed():
            user.request_stop(server)
        half = time.monotonic() + GONE_WITHIN_S / 2
        while not user.is_idle() and time.monotonic() < deadline:
            if time.monotonic() > half:
                for container in deployment.servers(user=user.name):
                    container.remove(force=True)
            for server, model in user.listed().items():
                if model["pending"] is None:
                    user.request_stop(server)
            time.sleep(0.3)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(stop, users))


@contextlib.contextmanager
def crowd(deployment: Deployment) -> Iterator[Callable[[str], User]]:
    """Makes users nobody else has; afterwards their servers are stopped.

    Also ends every fault of the engine proxy, so that no test inherits one.
    """
    made: list[User] = []

    def make(name: str) -> User:
        made.append(deployment.new_user(name))
        return made[-1]

    try:
        yield make
    finally:
        deployment.proxy.clear()
        stop_servers(deployment, made)

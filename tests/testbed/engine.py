"""A Docker engine of the test run's own: own network, own data, own sockets.

The engine runs in a network namespace of its own (a veth pair and NAT lead out, so
image builds reach the package registries), in a mount namespace of its own (nothing it
mounts stays behind), and with its own data: it meets no other engine on the machine and
no port of it collides with anything. Standard library only, since this runs before
anything of the project is installed.
"""

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 25
RESOLV_CONF = Path("/etc/resolv.conf")
RESOLVED_CONF = Path("/run/systemd/resolve/resolv.conf")
"""What systemd-resolved would ask itself; its stub listens on the host's loopback."""


class EngineError(Exception):
    """The test engine cannot run here; the text says why and is meant for people."""


def wait_until(
    ask: Callable[[], T], *, what: str, within_s: float, every_s: float = 0.1
) -> T:
    """Return the first true answer of ``ask``, or fail with ``what`` in the text."""
    deadline = time.monotonic() + within_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:.0f} s: {what}")
        time.sleep(every_s)


def run(*command: str | Path, check: bool = True) -> str:
    """Run a command and return what it printed; its error text is part of the error."""
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode != 0:
        raise EngineError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the engine's unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(socket_path: Path, method: str, target: str, timeout_s: float = 60) -> Any:
    """Make one request to an engine and return its JSON, or its text."""
    connection = _UnixConnection(socket_path, timeout_s)
    try:
        connection.request(method, target)
        body = connection.getresponse().read()
    finally:
        connection.close()
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


# --------------------------------------------------------------------------- network


@dataclass(frozen=True)
class Network:
    """A network namespace with a way out; or, with no name, the host's own."""

    name: str | None = None
    veth: str = ""
    subnet: str = ""
    mtu: int = 1500

    @property
    def enter(self) -> list[str]:
        """Words to put before a command that shall run in this network.

        Not ``ip netns exec``: that one mounts a fresh /sys and hides /sys/fs/cgroup.
        """
        return [] if self.name is None else ["nsenter", f"--net=/run/netns/{self.name}"]

    def pids(self) -> list[int]:
        """Every process whose network this is."""
        if self.name is None:
            return []
        listing = run("ip", "netns", "pids", self.name, check=False)
        return [int(pid) for pid in listing.split()]

    def rules(self) -> Iterator[list[str]]:
        """The firewall rules that let this network out, without add or delete."""
        outside = ["-s", self.subnet, "!", "-d", self.subnet]
        yield ["nat", "POSTROUTING", *outside, "-j", "MASQUERADE"]
        yield ["filter", "FORWARD", "-i", self.veth, "-j", "ACCEPT"]
        yield ["filter", "FORWARD", "-o", self.veth, "-j", "ACCEPT"]

    def create(self) -> None:
        """Make the namespace, the veth pair and the rules; raise EngineError."""
        inside = f"{self.veth}i"
        prefix = self.subnet.rsplit(".", 1)[0]
        last = int(self.subnet.rsplit(".", 1)[1].split("/")[0])
        here, there = f"{prefix}.{last + 1}", f"{prefix}.{last + 2}"
        run("ip", "netns", "add", str(self.name))
        run("ip", "link", "add", self.veth, "type", "veth", "peer", "name", inside)
        run("ip", "link", "set", inside, "netns", str(self.name))
        run("ip", "addr", "add", f"{here}/30", "dev", self.veth)
        run("ip", "link", "set", self.veth, "mtu", str(self.mtu), "up")
        run(*self.enter, "ip", "link", "set", "lo", "up")
        run(*self.enter, "ip", "addr", "add", f"{there}/30", "dev", inside)
        run(*self.enter, "ip", "link", "set", inside, "mtu", str(self.mtu), "up")
        run(*self.enter, "ip", "route", "add", "default", "via", here)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
        for table, chain, *rule in self.rules():
            run("iptables", "-w", "-t", table, "-I", chain, *rule)

    def remove(self) -> None:
        """End what still runs in the namespace, then take namespace and rules away."""
        for ask in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, ask)
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: not self.pids(), what="processes end", within_s=5)
        for table, chain, *rule in self.rules():
            while iptables_has(table, chain, rule):
                run("iptables", "-w", "-t", table, "-D", chain, *rule)
        run("ip", "link", "del", self.veth, check=False)
        run("ip", "netns", "del", str(self.name), check=False)


def iptables_has(table: str, chain: str, rule: Sequence[str]) -> bool:
    """Is this exact rule there?"""
    check = ["iptables", "-w", "-t", table, "-C", chain, *rule]
    return subprocess.run(check, check=False, capture_output=True).returncode == 0


def default_mtu() -> int:
    """The MTU of the interface that leads out of this machine; 1500 if none does."""
    route = run("ip", "-o", "route", "show", "default", check=False).split()
    device = route[route.index("dev") + 1] if "dev" in route else ""
    mtu = Path(f"/sys/class/net/{device}/mtu")
    return int(mtu.read_text()) if device and mtu.exists() else 1500


def resolves(network: Network, name: str = "pypi.org") -> bool:
    """Does name resolution work in this network?"""
    ask = f"import socket; socket.getaddrinfo({name!r}, 443)"
    command = [*network.enter, "timeout", "10", sys.executable, "-c", ask]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def make_network(tag: str, say: Callable[[str], None]) -> Network:
    """A namespace with a way out, or the host's network where that cannot be had."""
    number = int(tag, 16) % 16000
    subnet = f"10.213.{number // 64}.{number % 64 * 4}/30"
    network = Network(f"torchroom-{tag}", f"trt{tag}", subnet, default_mtu())
    network.remove()  # what a killed run left behind
    try:
        network.create()
        check_way_out(network)
    except (EngineError, OSError) as error:
        network.remove()
        if Path("/var/run/docker.sock").is_socket():
            raise EngineError(
                f"no network of its own for the test engine ({error}), and another "
                "engine uses the host's"
            ) from error
        say(f"the test engine uses the host's network: {error}")
        return Network(mtu=network.mtu)
    return network


def check_way_out(network: Network) -> None:
    """Raise EngineError if names resolve on the host but not in this network."""
    by_address = loopback_resolver() is None
    if by_address and resolves(Network()) and not resolves(network):
        raise EngineError("names do not resolve in a network namespace")


def loopback_resolver() -> Path | None:
    """The file to use instead when /etc/resolv.conf names the host's loopback."""
    text = RESOLV_CONF.read_text() if RESOLV_CONF.exists() else ""
    local = any(line.split()[1:2] == ["127.0.0.53"] for line in text.splitlines())
    return RESOLVED_CONF if local and RESOLVED_CONF.exists() else None


# --------------------------------------------------------------------------- engine


@dataclass
class Engine:
    """One dockerd: ``with Engine(...) as engine`` starts and surely ends it."""

    root: Path
    """Where its data lives; kept between runs, so that images are built once."""
    environment: dict[str, str] = field(default_factory=dict)
    """What dockerd gets on top of the environment: PATH with the GPU hook."""
    say: Callable[[str], None] = print
    network: Network = field(default_factory=Network)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def tag(self) -> str:
        """Eight hexadecimal digits that name this engine on this machine."""
        return hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:8]

    @property
    def run_dir(self) -> Path:
        """Sockets and pid files: short paths, gone after the run."""
        return Path(f"/run/torchroom-test-{self.tag}")

    @property
    def socket(self) -> Path:
        """The engine's unix socket."""
        return self.run_dir / "docker.sock"

    @property
    def host(self) -> str:
        """The value for DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> Path:
        """What dockerd printed."""
        return self.root / "dockerd.log"

    def __enter__(self) -> "Engine":
        """Start it: no containers, no volumes, the images of earlier runs."""
        self._end_leftover()
        try:
            self.network = make_network(self.tag, self.say)
            self._start()
            self._clear()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it and everything in its network; leaves the data, nothing else."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._clear()
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._end_leftover()
        if self.network.name is not None:
            self.network.remove()
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def _start(self) -> None:
        self.run_dir.mkdir(mode=0o711, exist_ok=True)
        (self.root / "data").mkdir(parents=True, exist_ok=True)
        config = self.run_dir / "daemon.json"  # not the machine's own settings
        config.write_text("{}\n")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(config),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                start_new_session=True,  # a Ctrl-C is for us, not for the engine
            )
        wait_until(self._answers, what="the engine answers", within_s=START_TIMEOUT_S)

    def _command(self, config: Path) -> list[str]:
        """Dockerd, with mounts of its own, ended by the kernel should we be killed."""
        flags = [
            *("--config-file", str(config), "--data-root", str(self.root / "data")),
            *("--exec-root", str(self.run_dir / "exec"), "--host", self.host),
            *("--pidfile", str(self.run_dir / "dockerd.pid")),
            *("--mtu", str(self.network.mtu)),
        ]
        # A private /run/containerd makes dockerd bring its own containerd, a private
        # /run/docker keeps its network sandboxes apart from another engine's.
        prepare = [
            f"mkdir -p {path} && mount -t tmpfs tmpfs {path}"
            for path in ("/run/containerd", "/run/docker")
        ]
        if (resolver := loopback_resolver()) is not None:
            prepare.append(f"mount --bind {resolver} {RESOLV_CONF.resolve()}")
        script = " && ".join([*prepare, 'exec dockerd "$@"'])
        own_mounts = ["unshare", "--mount", "--propagation", "slave"]
        return [
            *("setpriv", "--pdeathsig", "TERM"),
            *self.network.enter,
            *own_mounts,
            *("sh", "-c", script, "dockerd", *flags),
        ]

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise EngineError(f"dockerd ended at once; the end of {self.log}:\n{tail}")
        try:
            return bool(call(self.socket, "GET", "/_ping", timeout_s=5) == "OK")
        except (OSError, http.client.HTTPException):
            return False

    def _clear(self) -> None:
        """Remove every container, volume and network of an earlier run."""
        containers = call(self.socket, "GET", "/containers/json?all=1")

        def remove(container: dict[str, Any]) -> None:
            call(self.socket, "DELETE", f"/containers/{container['Id']}?force=1&v=1")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(remove, containers))
        for volume in call(self.socket, "GET", "/volumes")["Volumes"] or []:
            call(self.socket, "DELETE", f"/volumes/{volume['Name']}?force=1")
        call(self.socket, "POST", "/networks/prune")
        call(self.socket, "POST", "/images/prune")

    def _end_leftover(self) -> None:
        """End what a killed run of the same checkout left, by its pid files."""
        for name in ("dockerd.pid", "exec/containerd/containerd.pid"):
            file = self.run_dir / name
            pid = int(file.read_text()) if file.exists() else 0
            command = Path(f"/proc/{pid}/cmdline")
            if pid and command.exists() and str(self.run_dir) in command.read_text():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                wait_until(
                    lambda there=command: not there.exists(),  # type: ignore[misc]
                    what=f"leftover process {pid} ends",
                    within_s=STOP_TIMEOUT_S,
                )

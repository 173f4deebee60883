"""What a site configures, with defaults and checks, and the seams to the machine."""

import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any as Anything
from typing import ClassVar

import docker
from docker.utils import kwargs_from_env
from dockerspawner import DockerSpawner
from traitlets import (
    Any,
    Bool,
    Dict,
    Enum,
    Float,
    Integer,
    List,
    Unicode,
    default,
    validate,
)

from gpuspawner import settings
from gpuspawner.engine import CALL_TIMEOUT_S, DockerEngine
from gpuspawner.host import Host
from gpuspawner.model import Offer
from gpuspawner.pacing import Pace
from gpuspawner.policy import Policy
from gpuspawner.ports import EveryMachineOffer, PlaceholderMeter
from gpuspawner.probe import NvmlProbe

HUB_ID_FILE = "gpuspawner_hub_id"
STARTS_WITHIN_S = 600
UNANSWERED_WITHIN_S = 1800
HUB_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")


class ConfiguredSpawner(DockerSpawner):
    """A DockerSpawner with this plugin's settings and its one Host per hub process."""

    hub_id = Unicode(
        help="""Name of this hub on the engine: containers and volumes labelled with it
        are this hub's to keep or remove; others are never touched. Default: a
        random name kept in the file gpuspawner_hub_id in the hub's
        working directory.""",
    ).tag(config=True)

    gpu_driver = Enum(
        ["auto", "nvidia", "cdi"],
        default_value="auto",
        help="""How the engine attaches devices. auto: cdi if the engine lists every
        device as nvidia.com/gpu=UUID, else nvidia (the container toolkit's hook).""",
    ).tag(config=True)

    offers = List(
        Dict(),
        help="""Sizes to offer, the default first. Each: name, title, n_gpus,
        memory_bytes, n_cpus; optionally gpu_kind (device, mig or share), gpu_type (a
        product name, with the profile of a part), gpu_memory_bytes (at least so much on
        each) and connected (every two GPUs joined by NVLink). Empty: CPU only, 1, 2,
        4, ... GPUs and every kind of part, each with its share of the machine.""",
    ).tag(config=True)

    home_dir = Unicode(
        "/home/jovyan", help="Where the home volume is mounted; the image's home."
    ).tag(config=True)

    home_owner = List(
        Integer(),
        default_value=[1000, 1000],
        minlen=2,
        maxlen=2,
        help="Numeric user and group of files laid into a home; the image's user.",
    ).tag(config=True)

    home_policy = Enum(
        ["keep", "delete"],
        default_value="keep",
        help="""What becomes of a home when its user or named server is deleted for
        good. keep: the volume stays, and a server of the same name gets it back.""",
    ).tag(config=True)

    seed_home = Unicode(
        help="""Folder on the hub whose files are laid into every home before its server
        starts. A file that the student edited is never overwritten.""",
    ).tag(config=True)

    deliver = Dict(
        help="""Folder in the container -> folder on the hub; fresh and root's own at
        every start.""",
    ).tag(config=True)

    search_paths = Dict(
        help="""Variable -> folder in the container that it shall begin with, such as
        {"JUPYTER_PATH": "/opt/site/share"}; what the image has in it follows.""",
    ).tag(config=True)

    cap_add = List(
        Unicode(),
        help="""Capabilities to leave to servers. None are needed by images that start
        as an ordinary user; images that start as root and drop to one need SETUID,
        SETGID, CHOWN, DAC_OVERRIDE and FOWNER. Without SETUID an image that would
        start as root is run as home_owner.""",
    ).tag(config=True)

    bystanders = List(
        Unicode(),
        help="""Names of other containers that hold GPUs without computing on them, such
        as a monitoring exporter. GPUs of any other container are not leased.""",
    ).tag(config=True)

    shares = Dict(
        help="""Devices that several servers use at once: UUID, index or product name ->
        how many. Each gets its part of the GPU's memory; see weakest_cap. A program
        that fails hard can end those of the others on the same GPU.""",
    ).tag(config=True)

    weakest_cap = Enum(
        ["watchdog", "framework", "driver"],
        default_value="watchdog",
        help="""The weakest means that may keep a share inside its memory. driver: the
        NVIDIA driver refuses more (R615 or later, a hub with the right to ask it).
        framework: PyTorch and JAX in the image refuse more. watchdog: what takes more
        is warned, then ended. The strongest means there is is always used.""",
    ).tag(config=True)

    keep_intact = Dict(
        help="""Group size -> how many unbroken groups of so many GPUs smaller requests
        never break, like {4: 1}.""",
    ).tag(config=True)

    queue_timeout = Integer(
        3600,
        min=0,
        help="""Longest wait for GPUs in seconds; 0 refuses at once what cannot start at
        once.""",
    ).tag(config=True)

    queue_page_grace = Float(
        45.0,
        min=1.0,
        help="""Seconds that a place in the queue is kept after its page was closed.
        Servers that were started over REST and never watched wait without a page.""",
    ).tag(config=True)

    priority_windows = List(
        Dict(),
        help="""Courses that go first in the queue at times: each with group (a
        JupyterHub group), start and end (ISO 8601 with time zone), and optionally
        every_days (7: weekly).""",
    ).tag(config=True)

    start_limit = Integer(
        20,
        min=0,
        help="Starts of one user within any 10 minutes; 0: no limit.",
    ).tag(config=True)

    unanswered_limit = Integer(
        3,
        min=0,
        help="""Servers of one user that held a GPU and never answered, within any 30
        minutes; then that user waits before the next start with a GPU. They are not
        paid for. Failures of the machine, the engine and the queue do not count. 0: no
        limit.""",
    ).tag(config=True)

    sample_interval = Float(
        10.0,
        min=1.0,
        help="""Seconds between two readings of all GPUs. The driver remembers fifteen
        seconds of what their SMs did: from there on only a server whose GPUs draw as
        little as unused ones can be seen to be idle for long.""",
    ).tag(config=True)

    clean_within = Float(
        60.0,
        min=1.0,
        help="""Seconds after the end of a server within which its GPUs must be clean:
        no process on them, no more memory used than when idle. Later they are
        quarantined until they are.""",
    ).tag(config=True)

    state_dir = Unicode(
        ".",
        help="""Folder of the hub where the queue, the health of the GPUs, what they
        draw unused and what the meter must still learn are kept over a restart.""",
    ).tag(config=True)

    check_devices = Bool(
        True, help="Compare /dev in every started GPU server with its lease."
    ).tag(config=True)

    meter_interval = Float(
        60.0,
        min=1.0,
        help="""Seconds between two looks of the meter at running servers. What is
        charged does not depend on it; how soon a user is warned does.""",
    ).tag(config=True)

    # Not from the configuration: traitlets would copy it for every spawner. Give it by
    # @default("meter") in a subclass; all servers share the one that comes first.
    meter = Any(help="A gpuspawner.ports.Meter.")
    offer_policy = Any(help="A gpuspawner.ports.Offers.")

    _host: ClassVar[Host | None] = None

    @default("meter")
    def _default_meter(self) -> PlaceholderMeter:
        return PlaceholderMeter()

    @default("offer_policy")
    def _default_offer_policy(self) -> EveryMachineOffer:
        return EveryMachineOffer()

    @default("hub_id")
    def _default_hub_id(self) -> str:
        path = Path(HUB_ID_FILE)
        if not path.exists():
            path.write_text(f"hub-{secrets.token_hex(4)}\n")
        return path.read_text().strip()

    @validate("hub_id")
    def _check_hub_id(self, proposal: Anything) -> str:
        if not HUB_ID.fullmatch(proposal.value):
            raise ValueError(
                "GPUDockerSpawner.hub_id must be 1 to 40 of a-z 0-9 _ . - and start "
                f"with a letter or digit, not {proposal.value!r}"
            )
        return str(proposal.value)

    @default("prefix")
    def _default_prefix(self) -> str:
        return str(self.hub_id)

    @default("name_template")
    def _default_name_template(self) -> str:
        named = "--{servername}" if self.name else ""
        return "{prefix}-{username}" + named

    @default("remove")
    def _default_remove(self) -> bool:
        # A container is never started again with an old lease (JupyterHub derives
        # from this that tokens are not reused).
        return True

    @validate("remove")
    def _check_remove(self, proposal: Anything) -> bool:
        if not proposal.value:
            raise ValueError(
                "GPUDockerSpawner.remove must stay True: a container that was kept "
                "would be started with devices that may be somebody else's by now"
            )
        return True

    @property
    def host(self) -> Host:
        """The machine, one object per spawner class and hub process."""
        cls = type(self)
        if cls._host is None:
            cls._host = Host(
                self.hub_id,
                DockerEngine(self._connect),
                NvmlProbe(log=self.log),
                self.log,
                Policy(
                    shares=settings.read_counts("shares", self.shares),
                    keep_intact=settings.read_groups(self.keep_intact),
                    bystanders=frozenset(self.bystanders),
                    queue_timeout_s=self.queue_timeout,
                    sample_every_s=self.sample_interval,
                    clean_within_s=self.clean_within,
                    meter_every_s=self.meter_interval,
                    state_dir=Path(self.state_dir),
                    starts=Pace(self.start_limit, STARTS_WITHIN_S),
                    unanswered=Pace(self.unanswered_limit, UNANSWERED_WITHIN_S),
                ),
                meter=self.meter,
            )
        return cls._host

    def _connect(self) -> docker.APIClient:
        kwargs: dict[str, Anything] = {"version": "auto", "timeout": CALL_TIMEOUT_S}
        if self.tls_config:
            kwargs["tls"] = docker.tls.TLSConfig(**self.tls_config)
        kwargs.update(kwargs_from_env())
        kwargs.update(self.client_kwargs)
        return docker.APIClient(**kwargs)

    @property
    def client(self) -> docker.APIClient:
        """The engine's client (DockerSpawner's seam)."""
        return self.host.engine.client

    def docker(self, method: str, *args: Anything, **kwargs: Anything) -> Anything:
        """Call the engine in a thread of its own pool (DockerSpawner's seam)."""
        return self.host.engine.call(method, *args, **kwargs)

    def configured_offers(self) -> tuple[Offer, ...]:
        """Return the offers a site configured, () if it left them to the machine.

        Raises:
            ConfigurationError: An entry lacks or garbles something.
        """
        return tuple(settings.read_offer(row) for row in self.offers)

    def course_now(self, groups: Sequence[str], now: datetime) -> str:
        """Return which of a user's groups has its window now, "" if none.

        The pool learns of the windows, too: it orders the queue by them.

        Raises:
            ConfigurationError: A window lacks or garbles something.
        """
        windows = [settings.read_window(row, now) for row in self.priority_windows]
        self.host.pool.priorities = windows
        open_now = {w.course for w in windows if w.starts_at <= now < w.ends_at}
        return next((group for group in groups if group in open_now), "")

"""What the gate lets through and what it refuses: a table of attacks."""

import json
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest
from docker.types import HostConfig
from gate.behind import (
    HUB,
    NETWORK,
    NEUTRAL,
    POLICY,
    UUID,
    host_config,
    labels,
    server,
    with_gpu,
)
from gpuspawner import container as c
from gpuspawner.model import Device, Lease, Limits, Owner, Slot, SlotKind
from hypothesis import assume, given
from hypothesis import strategies as st
from torchroom.gate import bodies, messages, rules
from torchroom.gate.errors import GateError, Malformed, Refused
from torchroom.gate.policy import Policy
from torchroom.gate.rules import Judged

ID = "ab" * 32


def judge(method: str, target: str, policy: Policy = POLICY) -> Judged:
    head = messages.parse(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return rules.judge(policy, head)


def check(body: dict[str, Any], policy: Policy = POLICY) -> list[str]:
    return bodies.container(policy, "lab-ann", body)


# ------------------------------------------------------------------- what is needed


@pytest.mark.parametrize(
    ("method", "target", "sent"),
    [
        ("GET", "/version", "/version"),
        ("GET", "/v1.41/info", "/v1.41/info"),
        ("GET", "/v1.041/info", "/v1.41/info"),
        ("GET", f"/v1.41/containers/{ID}/json", f"/v1.41/containers/{ID}/json"),
        ("GET", "/v1.41/containers/lab%2Dann/json", "/v1.41/containers/lab-ann/json"),
        (
            "GET",
            "/v1.41/containers/json?limit=-1&all=1&size=0&trunc_cmd=0",
            "/v1.41/containers/json?limit=-1&all=1&size=0&trunc_cmd=0",
        ),
        ("POST", f"/containers/{ID}/start", f"/containers/{ID}/start"),
        ("POST", f"/containers/{ID}/stop?t=10", f"/containers/{ID}/stop?t=10"),
        (
            "DELETE",
            f"/containers/{ID}?v=True&link=False&force=True",
            f"/containers/{ID}?v=True&link=False&force=True",
        ),
        (
            "GET",
            f"/containers/{ID}/archive?path=%2Fhome%2Fa+b",
            f"/containers/{ID}/archive?path=%2Fhome%2Fa%20b",
        ),
        ("GET", "/images/a.b:5/c/d:1/json", "/images/a.b:5/c/d:1/json"),
        ("GET", "/images/c%40sha256:ab/json", "/images/c@sha256:ab/json"),
        (
            "POST",
            "/images/create?tag=1&fromImage=a.b%2Fc",
            "/images/create?tag=1&fromImage=a.b%2Fc",
        ),
        ("DELETE", "/volumes/lab-home-ann", "/volumes/lab-home-ann"),
        ("GET", f"/exec/{ID}/json", f"/exec/{ID}/json"),
    ],
)
def test_what_servers_need_goes_on_in_its_one_form(
    method: str, target: str, sent: str
) -> None:
    assert judge(method, target).target() == sent


def test_events_are_those_of_this_hub() -> None:
    """Whatever is asked for, one more filter is put on it."""
    for asked in ({}, {"event": ["oom"]}, {"label": ["a=b"], "container": ["x"]}):
        quoted = urlencode({"filters": json.dumps(asked)})
        sent = judge("GET", f"/events?{quoted}").query
        filters = json.loads(parse_qs(sent.removeprefix("?"))["filters"][0])
        mine = [*asked.get("label", []), f"gpuspawner.hub={HUB}"]
        assert filters == {**asked, "label": mine}
    sent = judge("GET", "/events").query
    assert "gpuspawner.hub" in sent


# ---------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("method", "target"),
    [
        # ways out of the engine, and into others' things
        ("POST", "/build"),
        ("POST", "/session"),
        ("POST", "/grpc"),
        ("POST", "/commit?container=x"),
        ("POST", "/images/load"),
        ("POST", "/images/x/push"),
        ("POST", "/images/x/tag?repo=y"),
        ("DELETE", "/images/x"),
        ("GET", "/images/x/get"),
        ("GET", "/images/json"),
        ("POST", "/images/create?fromSrc=-&repo=x"),
        ("POST", "/images/create?fromImage=x"),  # every tag of it
        ("POST", "/images/create?fromImage=a/b:1.0&tag=evil"),  # the engine's choice
        ("POST", f"/images/create?fromImage=a/b@sha256:{'a' * 64}&tag=1"),
        ("POST", "/images/create?fromImage=a:5000/b:1&tag=2"),
        ("POST", "/images/create?fromImage=a&tag=b:c"),
        ("POST", "/images/create?fromImage=a&tag=b/c"),
        ("POST", "/images/create?fromImage=x&tag=1&changes=USER%20root"),
        ("POST", "/auth"),
        ("POST", "/swarm/init"),
        ("POST", "/services/create"),
        ("POST", "/secrets/create"),
        ("GET", "/secrets"),
        ("GET", "/configs"),
        ("POST", "/plugins/pull?remote=x"),
        ("POST", "/networks/create"),
        ("POST", "/networks/x/connect"),
        ("DELETE", "/networks/x"),
        ("GET", "/volumes"),
        ("POST", "/volumes/prune"),
        ("PUT", "/volumes/x?version=1"),
        ("POST", "/containers/prune"),
        ("POST", "/containers/x/update"),
        ("POST", "/containers/x/rename?name=lab-y"),
        ("POST", "/containers/x/attach"),
        ("GET", "/containers/x/attach/ws"),
        ("GET", "/containers/x/export"),
        ("GET", "/containers/x/logs?stdout=1"),
        ("POST", "/containers/x/checkpoints"),
        ("POST", "/containers/x/start?checkpoint=a&checkpoint-dir=/etc"),
        ("POST", "/containers/x/restart"),
        ("POST", "/exec/x/resize?h=1&w=1"),
        ("DELETE", "/containers/x?link=1"),
        ("GET", "/containers/json?size=1"),
        ("GET", "/containers/x/json?size=1"),
        ("GET", "/system/df"),
        ("GET", "/distribution/x/json"),
        ("GET", "/metrics"),
        ("GET", "/debug/pprof/cmdline"),
        # ways to write an allowed one differently
        ("GET", "/"),
        ("GET", "/info/"),
        ("GET", "//info"),
        ("GET", "/v1.41//info"),
        ("GET", "/v1.41/../info"),
        ("GET", "/v1.41/../containers/x/export"),
        ("GET", "/containers/x/../../info"),
        ("GET", "/containers/./json"),
        ("GET", "/containers/%2e%2e/info"),
        ("GET", "/containers/%252e%252e/info"),
        ("GET", "/containers/x%2fjson"),
        ("GET", "/containers/x%2f..%2f..%2finfo"),
        ("GET", "/containers/x%00/json"),
        ("GET", "/containers/x%0d%0aX:1/json"),
        ("GET", "/containers/x;a=b/json"),
        ("GET", "/containers/x#/json"),
        ("GET", "/INFO"),
        ("GET", "/Containers/json"),
        ("GET", "/v1.41/v1.41/info"),
        ("GET", "/v2.0/info"),
        ("GET", "/v1/info"),
        ("GET", "/v1.41.0/info"),
        ("GET", "/v1.99999/info"),
        ("GET", "/v1.-41/info"),
        ("POST", "/v1.20/containers/x/start"),  # takes HostConfig there
        ("POST", "/v1.39/containers/create?name=lab-a"),
        ("GET", "/images/../info/json"),
        ("GET", "/images/a//b/json"),
        ("GET", "/images//json"),
        ("HEAD", "/info"),
        ("PUT", "/info"),
        # queries
        ("GET", "/info?"),
        ("GET", "/info?x=1"),
        ("POST", f"/containers/{ID}/stop?t=1&t=2"),
        ("POST", f"/containers/{ID}/stop?t=1;signal=KILL"),
        ("POST", f"/containers/{ID}/stop?t=1&"),
        ("POST", f"/containers/{ID}/stop?t=%EF%BC%91"),
        ("POST", f"/containers/{ID}/stop?t"),
        ("POST", f"/containers/{ID}/stop?%74=1"),
        ("POST", f"/containers/{ID}/kill?signal=KILL"),
        ("POST", "/containers/create"),
        ("POST", "/containers/create?name=lab-a&platform=x"),
        ("POST", "/containers/create?name=%2Flab-a"),
        ("POST", "/containers/create?Name=lab-a"),
        ("GET", f"/containers/{ID}/archive"),
        ("GET", f"/containers/{ID}/archive?path=etc"),
        ("GET", f"/containers/{ID}/archive?path=/a/../../etc"),
        ("PUT", f"/containers/{ID}/archive?path=/a&copyUIDGID=1"),
        ("GET", "/events?filters=x"),
        ("GET", "/events?filters=%7B%22label%22:%7B%22a%22:true%7D%7D"),
        ("GET", "/events?filters=%7B%22image%22:%5B%5D%7D"),
        ("GET", "/events?filters=%7B%22event%22:%5B%5D,%22event%22:%5B%5D%7D"),
    ],
)
def test_everything_else_is_refused(method: str, target: str) -> None:
    with pytest.raises(GateError) as refused:
        judge(method, target)
    assert str(refused.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET http://docker/info HTTP/1.1\r\n\r\n",
        b"GET docker:80 HTTP/1.1\r\n\r\n",
        b"CONNECT /info HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"get /info HTTP/1.1\r\n\r\n",
        b"GET /info HTTP/1.0\r\n\r\n",
        b"GET /info HTTP/2.0\r\n\r\n",
        b"GET  /info HTTP/1.1\r\n\r\n",
        b"GET\t/info HTTP/1.1\r\n\r\n",
        b"GET /info\r\n\r\n",
        b" GET /info HTTP/1.1\r\n\r\n",
        b"\r\nGET /info HTTP/1.1\r\n\r\n",
        b"GET /in\xc3\xa4 HTTP/1.1\r\n\r\n",
        b"GET /info HTTP/1.1\nHost: x\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /info HTTP/1.1\r\n Host: x\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: x\r\n y\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHo\x00st: x\r\n\r\n",
        b"GET /info HTTP/1.1\r\nA: b\r\na: b\r\n\r\n",
        b"GET /info HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
        b"DELETE /info HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 05\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: \r\n\r\n",
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n",
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: \tchunked\r\n\r\n",
        b"POST /x HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"POST /x HTTP/1.1\r\nUpgrade: tcp\r\n\r\n",
    ],
)
def test_heads_that_two_programs_may_read_differently_are_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        messages.parse(raw)


def test_nothing_of_a_head_goes_on_that_was_not_judged() -> None:
    """Other headers stay here; what frames the request is the gate's own."""
    raw = (
        b"POST /exec/x/start HTTP/1.1\r\nhOST: evil\r\nX-Evil: 1\r\nExpect: 100"
        b"\r\nCONTENT-LENGTH: 2\r\nConnection: keep-alive, X-Evil\r\n\r\n"
    )
    head = messages.parse(raw)
    assert messages.request(head, "/exec/y/start", 17) == (
        b"POST /exec/y/start HTTP/1.1\r\nHost: docker\r\nContent-Length: 17\r\n"
        b"Content-Type: application/json\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    "raw",
    [
        b'{"A": 1, "A": 2}',
        b'{"A": {"B": 1, "B": 2}}',
        b'{"A": NaN}',
        b'{"A": 1} {"B": 2}',
        b"[]",
        b'"x"',
        b"{",
        b'{"A": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_bodies_that_two_programs_may_read_differently_are_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        messages.read_json(raw)


# ---------------------------------------------------------------------- containers


def test_what_the_plugin_sends_is_let_through() -> None:
    """With and without GPUs, by hook and by CDI; the home is named to be looked at."""
    assert check(server()) == ["lab-home-ann"]
    assert check(with_gpu("nvidia")) == ["lab-home-ann"]
    assert check(with_gpu("cdi")) == ["lab-home-ann"]


@pytest.mark.parametrize("driver", ["nvidia", "cdi"])
def test_the_plugins_own_settings_are_let_through(driver: str) -> None:
    """Not a copy of what it sent once: what it makes now."""
    device = Device(0, UUID, "H200", 2**30, 0)
    slot = Slot(device, UUID, SlotKind.DEVICE, 2**30)
    lease = Lease("ls_1", Owner("ann", ""), (slot,))
    limits = Limits(2**30, 2**28, 1.5, 256)
    body = server()
    body["HostConfig"] = dict(
        HostConfig(
            version="1.41",
            **c.host_config(lease, limits, driver, ["SETUID"]),
            binds={"lab-home-ann": {"bind": "/home/jovyan", "mode": "rw"}},
            mounts=[],
            links={},
            network_mode=NETWORK,
        )
    )
    body["Labels"] = c.labels(HUB, lease, "lab-ann")
    given = c.environment(lease, limits, driver)
    body["Env"] = [f"{key}={value}" for key, value in given.items()]
    allows = Policy(HUB, NETWORK, caps=frozenset({"SETUID"}))
    assert check(body, allows) == ["lab-home-ann"]
    with pytest.raises(Refused, match="CapAdd"):
        check(body)


DANGEROUS: list[tuple[str, Any]] = [
    ("Privileged", True),
    ("Privileged", False),  # no key of the plugin's: not needed, not known
    ("privileged", True),
    ("PRIVILEGED", True),
    ("Binds", ["/:/host"]),
    ("Binds", ["/var/run/docker.sock:/var/run/docker.sock"]),
    ("Binds", ["lab-home-ann:/home/jovyan:rw", "/:/host:ro"]),
    ("Binds", ["../../etc:/etc2"]),
    ("Binds", ["lab_data:/data"]),
    ("Binds", ["torchroom_data:/data"]),
    ("Binds", ["lab-home-ann"]),
    ("Binds", ["lab-home-ann:/home/jovyan:rw,rshared"]),
    ("Binds", ["lab-home-ann:/home/../etc"]),
    ("Binds", ["lab-home-ann/../x:/data"]),
    ("Binds", ["lab-home-:/etc:/data"]),
    ("Binds", [f"lab-home-ann:/var/run/nvidia-container-devices/{UUID}"]),
    ("Binds", ["lab-home-ann:/run"]),
    ("Binds", ["lab-home-ann://proc/sys"]),
    ("Binds", "/:/host"),
    ("Binds", [["/:/host"]]),
    ("Binds", {"/": "/host"}),
    ("Mounts", [{"Type": "bind", "Source": "/", "Target": "/host"}]),
    ("Mounts", [{"Type": "npipe", "Source": "x", "Target": "/x"}]),
    ("Mounts", [{"Type": "cluster", "Source": "x", "Target": "/x"}]),
    ("Mounts", [{"Type": "image", "Source": "x", "Target": "/x"}]),
    ("Mounts", [{"type": "bind", "source": "/", "target": "/host"}]),
    ("Mounts", [{"Type": "volume", "Source": "other", "Target": "/x"}]),
    ("Mounts", [{"Type": "volume", "Target": "/x"}]),
    (
        "Mounts",
        [
            {
                "Type": "volume",
                "Source": "lab-home-x",
                "Target": "/x",
                "VolumeOptions": {
                    "DriverConfig": {
                        "Name": "local",
                        "Options": {"type": "none", "o": "bind", "device": "/"},
                    }
                },
            }
        ],
    ),
    (
        "Mounts",
        [
            {
                "Type": "tmpfs",
                "Target": "/x",
                "BindOptions": {"Propagation": "rshared"},
            }
        ],
    ),
    ("NetworkMode", "host"),
    ("NetworkMode", "bridge"),
    ("NetworkMode", "container:abc"),
    ("NetworkMode", "torchroom_default"),
    ("NetworkMode", ""),
    ("PidMode", "host"),
    ("PidMode", "container:abc"),
    ("IpcMode", "host"),
    ("IpcMode", "shareable"),
    ("UTSMode", "host"),
    ("UsernsMode", "host"),
    ("CgroupnsMode", "host"),
    ("Cgroup", "container:abc"),
    ("CgroupParent", "/"),
    ("CapAdd", ["ALL"]),
    ("CapAdd", ["SYS_ADMIN"]),
    ("CapAdd", ["cap_sys_ptrace"]),
    ("CapAdd", "SYS_ADMIN"),
    ("CapDrop", []),
    ("CapDrop", None),
    ("CapDrop", ["NET_RAW"]),
    ("Capabilities", ["CAP_SYS_ADMIN"]),
    ("SecurityOpt", []),
    ("SecurityOpt", ["no-new-privileges", "seccomp=unconfined"]),
    ("SecurityOpt", ["no-new-privileges", "apparmor=unconfined"]),
    ("SecurityOpt", ["no-new-privileges", "label=disable"]),
    ("SecurityOpt", ["no-new-privileges", "systempaths=unconfined"]),
    ("SecurityOpt", ["no-new-privileges:false"]),
    ("SecurityOpt", ["no-new-privileges", "no-new-privileges:false"]),
    ("Devices", [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda"}]),
    ("DeviceCgroupRules", ["a *:* rwm"]),
    ("DeviceRequests", [{"Driver": "nvidia", "Count": -1}]),
    ("DeviceRequests", [{"Driver": "nvidia", "DeviceIDs": ["all"]}]),
    ("DeviceRequests", [{"Driver": "nvidia", "DeviceIDs": ["0"]}]),
    ("DeviceRequests", [{"Driver": "nvidia", "DeviceIDs": [UUID], "Count": 2}]),
    (
        "DeviceRequests",
        [{"Driver": "nvidia", "DeviceIDs": [UUID], "Options": {"a": "b"}}],
    ),
    ("DeviceRequests", [{"Driver": "nvidia", "DeviceIDs": [UUID]}] * 2),
    ("DeviceRequests", [{"Driver": "cdi", "DeviceIDs": ["vendor.com/disk=all"]}]),
    ("DeviceRequests", [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]),
    ("DeviceRequests", [{"Driver": "", "DeviceIDs": [UUID]}]),
    (
        "DeviceRequests",
        [
            {
                "Driver": "nvidia",
                "DeviceIDs": [UUID],
                "Capabilities": [["gpu", "all"]],
            }
        ],
    ),
    ("Sysctls", {"kernel.core_pattern": "|/x"}),
    ("VolumesFrom", ["torchroom-hub-1"]),
    ("VolumeDriver", "evil"),
    ("Links", ["hub:hub"]),
    ("PortBindings", {"8888/tcp": [{"HostPort": "22"}]}),
    ("PublishAllPorts", True),
    ("Runtime", "io.containerd.runc.v2"),
    ("Runtime", "nvidia"),
    ("RestartPolicy", {"Name": "always"}),
    ("RestartPolicy", {"Name": "no", "name": "always"}),
    ("RestartPolicy", {}),
    ("AutoRemove", True),
    ("GroupAdd", ["docker"]),
    ("MaskedPaths", []),
    ("ReadonlyPaths", []),
    ("OomKillDisable", True),
    ("OomScoreAdj", -1000),
    ("Memory", 0),
    ("Memory", -1),
    ("Memory", True),
    ("Memory", 1e9),
    ("MemorySwap", -1),
    ("MemorySwap", 2**40),
    ("PidsLimit", 0),
    ("PidsLimit", -1),
    ("PidsLimit", None),
    ("NanoCpus", 0),
    ("CpuRealtimeRuntime", 950000),
    ("Ulimits", [{"Name": "nofile", "Hard": 1, "Soft": 1}]),
    ("LogConfig", {"Type": "syslog", "Config": {"syslog-address": "udp://x"}}),
    ("ContainerIDFile", "/etc/x"),
    ("Tmpfs", {"/x": "exec,suid"}),
    ("Isolation", "process"),
    ("StorageOpt", {"size": "1"}),
    ("Annotations", {"a": "b"}),
    ("ExtraHosts", ["hub:1.2.3.4"]),
    ("Dns", ["1.2.3.4"]),
    ("Init", "true"),
    ("InitPath", "/x"),
    ("Unheard", None),
]


@pytest.mark.parametrize(("key", "value"), DANGEROUS)
def test_limits_that_a_server_must_not_have_are_refused(key: str, value: Any) -> None:
    with pytest.raises(Refused):
        check(server(**{key: value}))


@pytest.mark.parametrize(
    "key", ["Memory", "MemorySwap", "PidsLimit", "NanoCpus", "CapDrop", "SecurityOpt"]
)
def test_a_limit_that_is_missing_is_refused(key: str) -> None:
    body = server()
    del body["HostConfig"][key]
    with pytest.raises(Refused):
        check(body)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("HostConfig", None),
        ("HostConfig", []),
        ("hostconfig", {"Privileged": True}),
        ("hostConfig", {"Privileged": True}),
        ("Ho\u017ftConfig", {"Privileged": True}),  # Go reads this as HostConfig
        ("NetworkingConfig", {"EndpointsConfig": {"x": {"Aliases": ["hub"]}}}),
        ("NetworkingConfig", {}),
        ("Healthcheck", {"Test": ["CMD", "true"]}),
        ("OnBuild", ["RUN x"]),
        ("Shell", ["sh"]),
        ("MacAddress", "00:00:00:00:00:01"),
        ("Volumes", {"/x": {"a": 1}}),
        ("Volumes", {"/a/../b": {}}),
        ("Volumes", ["/x"]),
        ("Volumes", {"/elsewhere": {}}),
        ("Volumes", {"/proc": {}}),
        ("Volumes", {f"/run/nvidia-container-devices/{UUID}": {}}),
        ("ExposedPorts", {"1-65535/tcp": {}}),
        ("Image", None),
        ("Image", 5),
        ("Env", None),
        ("Env", ["A=b"]),
        ("Env", ["NVIDIA_VISIBLE_DEVICES=void"]),
        ("Env", ["NVIDIA_VISIBLE_DEVICES=void", *NEUTRAL[1:]]),
        ("Env", ["NVIDIA_VISIBLE_DEVICES=void", *NEUTRAL, "NVIDIA_GDS=enabled"]),
        ("Env", ["NVIDIA_VISIBLE_DEVICES=all", *NEUTRAL]),
        ("Env", [f"NVIDIA_VISIBLE_DEVICES={UUID}", *NEUTRAL]),
        (
            "Env",
            ["NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_VISIBLE_DEVICES=all", *NEUTRAL],
        ),
        ("Env", ["NVIDIA_VISIBLE_DEVICES", *NEUTRAL]),
        ("Env", ["NVIDIA_VISIBLE_DEVICES=void", *NEUTRAL, "LD_PRELOAD=/x.so"]),
        ("Env", ["NVIDIA_VISIBLE_DEVICES=void", *NEUTRAL, "LD_AUDIT=/x.so"]),
        ("Labels", None),
        ("Labels", {}),
        ("Labels", labels("lab-bob")),
        ("Labels", labels("lab-ann") | {"gpuspawner.hub": "other"}),
        ("Labels", labels("lab-ann") | {"com.docker.compose.project": "torchroom"}),
        ("Labels", labels("lab-ann") | {"gpuspawner.user": 5}),
        ("Labels", labels("lab-ann", UUID)),
        ("Labels", {k: v for k, v in labels("lab-ann").items() if "lease" not in k}),
    ],
)
def test_containers_that_are_no_servers_are_refused(key: str, value: Any) -> None:
    with pytest.raises(Refused):
        check(server() | {key: value})


@pytest.mark.parametrize(
    "name", ["ann", "torchroom-hub-1", "labann", "lab-", "lab-a b", ""]
)
def test_a_server_bears_the_hubs_name(name: str) -> None:
    with pytest.raises(Refused):
        bodies.container(POLICY, name, server() | {"Labels": labels(name)})


def test_a_gpu_that_only_the_environment_names_is_refused() -> None:
    """The toolkit's hook reads it, whatever was requested."""
    body = with_gpu("cdi")
    body["Env"] = ["NVIDIA_VISIBLE_DEVICES=all"]
    with pytest.raises(Refused, match="NVIDIA_VISIBLE_DEVICES"):
        check(body)


def test_what_a_site_allows_is_let_through_and_no_more() -> None:
    allows = Policy(
        HUB,
        NETWORK,
        images=("school/*:1",),
        mounts=(("/srv/data", False), ("models", True)),
    )
    shared = server(Binds=["/srv/data:/data:ro", "models:/m:rw"])
    assert check(shared | {"Volumes": {"/data": {}, "/m": {}}}, allows) == []
    for wrong in (
        "/srv/data:/data:rw",
        "/srv/data:/data",
        "/srv/dat:/d:ro",
        "/srv:/d:ro",
    ):
        with pytest.raises(Refused):
            check(server(Binds=[wrong]) | {"Volumes": {}}, allows)
    with pytest.raises(Refused, match="image"):
        check(server() | {"Image": "evil/image:1"}, allows)
    judge("POST", "/images/create?fromImage=school/x&tag=1", allows)
    judge("POST", "/images/create?fromImage=a.b:5000/c_d/e&tag=1.0-x")
    judge("POST", f"/images/create?fromImage=x&tag=sha256:{'a' * 64}")
    with pytest.raises(Refused):
        judge("POST", "/images/create?fromImage=school/x&tag=2", allows)


# ---------------------------------------------------------------------- properties

JSONS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = sorted({key for key, _ in DANGEROUS})
FREE = {  # the values of these are a server's own affair, within their types
    "Memory", "MemorySwap", "ShmSize", "PidsLimit", "NanoCpus", "Init",
}  # fmt: skip
NOTHING: tuple[object, ...] = (None, "", [], {}, False)


@given(st.sampled_from(KEYS), JSONS)
def test_any_other_value_of_a_dangerous_key_is_refused(key: str, value: Any) -> None:
    """Whatever is put there, unless it means the same as leaving it out."""
    assume(key not in FREE)
    usual = host_config().get(key)
    assume(value != usual and value not in NOTHING)
    with pytest.raises(Refused):
        check(server(**{key: value}))


@given(st.text(max_size=30), JSONS)
def test_any_other_key_is_refused(key: str, value: Any) -> None:
    """Also None and empty ones: MaskedPaths: [] unmasks them all."""
    assume(key not in host_config())
    assume(key not in {"AutoRemove", "CapAdd", "DeviceRequests", "PortBindings"})
    assume(key not in {"ReadonlyRootfs", "Dns"})
    with pytest.raises(Refused):
        check(server(**{key: value}))


@given(JSONS)
def test_no_body_makes_the_gate_stumble(value: Any) -> None:
    """It refuses, or it is a body like the plugin's."""
    for body in (
        value,
        {"HostConfig": value},
        server() | {"Labels": value},
        server() | {"Env": value},
        server(Mounts=value),
        server(Binds=value),
        server(DeviceRequests=value),
        server(SecurityOpt=value),
    ):
        if isinstance(body, dict):
            try:
                check(body)
            except Refused:
                continue
            assert json.loads(json.dumps(body)) == body


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126)))
def test_a_target_means_the_same_written_again(target: str) -> None:
    """What is sent on is judged as what came."""
    try:
        found = judge("GET", f"/{target}")
    except GateError:
        return
    assert judge("GET", found.target()).target() == found.target()


# ------------------------------------------------------------ volumes and commands


@pytest.mark.parametrize(
    "changed",
    [
        {"Name": "other"},
        {"Name": "lab_data"},
        {"Name": "lab-home-../x"},
        {"Name": None},
        {"Driver": "evil"},
        {"DriverOpts": {"type": "none", "o": "bind", "device": "/"}},
        {"driveropts": {"type": "none", "o": "bind", "device": "/"}},
        {"ClusterVolumeSpec": {}},
        {"Labels": None},
        {"Labels": {"gpuspawner.hub": "other"}},
        {"Labels": {"gpuspawner.hub": HUB, "com.docker.compose.volume": "data"}},
    ],
)
def test_volumes_that_are_no_homes_are_refused(changed: dict[str, Any]) -> None:
    home = {"Name": "lab-home-ann", "Labels": {"gpuspawner.hub": HUB}}
    bodies.volume(POLICY, home)
    with pytest.raises(Refused):
        bodies.volume(POLICY, home | changed)


@pytest.mark.parametrize(
    ("found", "is_ours"),
    [
        ({"Driver": "local", "Labels": {"gpuspawner.hub": HUB}}, True),
        ({"Driver": "local", "Labels": {"gpuspawner.hub": "other"}}, False),
        ({"Driver": "local", "Labels": None}, False),
        ({"Driver": "nfs", "Labels": {"gpuspawner.hub": HUB}}, False),
        (
            {
                "Driver": "local",
                "Options": {"device": "/"},
                "Labels": {"gpuspawner.hub": HUB},
            },
            False,
        ),
    ],
)
def test_a_volume_is_known_by_its_label_and_is_a_plain_one(
    found: dict[str, Any], is_ours: bool
) -> None:
    assert POLICY.owns_volume(found) is is_ours


@pytest.mark.parametrize(
    "changed",
    [{"Privileged": True}, {"privileged": True}, {"Cmd": 5}, {"ConsoleSize": [1, 2]}],
)
def test_commands_with_more_rights_are_refused(changed: dict[str, Any]) -> None:
    command = {"Cmd": ["true"], "User": "0", "Privileged": False, "Tty": False}
    bodies.execution(command)
    with pytest.raises(Refused):
        bodies.execution(command | changed)


def test_little_is_told_of_others_containers() -> None:
    """That it holds a GPU; not what it was given, runs and mounts."""
    found = {
        "Id": ID,
        "Name": "/db",
        "State": {"Status": "running", "Health": {"Log": ["secret"]}},
        "Args": ["secret"],
        "Mounts": ["secret"],
        "Config": {"Env": ["secret"], "Labels": {"a": "secret", "gpuspawner.hub": "x"}},
        "HostConfig": {"DeviceRequests": [{"DeviceIDs": [UUID]}], "Binds": ["secret"]},
    }
    told = bodies.told(found)
    assert "secret" not in str(told)
    assert told["HostConfig"]["DeviceRequests"] == [{"DeviceIDs": [UUID]}]
    assert told["Config"]["Labels"] == {"gpuspawner.hub": "x"}
    assert bodies.told({}) == bodies.told({"State": None, "Config": None})
    assert "secret" not in str(bodies.told_row({"Command": "secret", "Labels": None}))

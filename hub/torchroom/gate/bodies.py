"""What may stand in a request's JSON: containers, volumes, commands. Pure.

Everything is an allow-list, of keys as well as of values, since the engine knows many
ways to hand out the machine and learns new ones. What the plugin does not send is
refused. The engine is given the judged object written anew, never the original text.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gpuspawner import container as c

from torchroom.gate.errors import Refused
from torchroom.gate.policy import Policy

Json = Mapping[str, object]

TEXT_MAX = 4096
TEXT_SHOWN = 80
LABEL = re.compile(r"gpuspawner\.[a-z][a-z0-9_.-]{0,63}")
LABELS = (c.USER, c.SERVER, c.LEASE, c.DEVICES, c.SLOTS, c.INDICES)
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,249}")
DEVICE = re.compile(r"(GPU-|MIG-)[A-Za-z0-9-]{8,64}(/[0-9]{1,3}){0,2}")
CDI = "nvidia.com/gpu="
FOLDER = re.compile(r"/[^:\x00-\x1f\\]{1,255}")
SYSTEM = re.compile(r"/+(proc|sys|dev|run|var/+run)(/|$)")
PORT = re.compile(r"[0-9]{1,5}/(tcp|udp)")
VISIBLE = "NVIDIA_VISIBLE_DEVICES"
# The container toolkit's hooks run as root and have inherited these (CVE-2025-23266).
PRELOADED = {"LD_PRELOAD", "LD_AUDIT"}
NO_NEW_PRIVILEGES = (
    ["no-new-privileges"],
    ["no-new-privileges:true"],
    ["no-new-privileges=true"],
)


def is_folder(path: object) -> bool:
    """Return whether this is an absolute path that says what it means."""
    if not isinstance(path, str) or not FOLDER.fullmatch(path):
        return False
    return not {".", ".."} & set(path.split("/"))


def container(policy: Policy, name: str, body: Json) -> list[str]:
    """Check what shall become a container; return the volumes it mounts.

    Raises:
        Refused: It could leave its limits; the sentence names what is wrong.
    """
    _only(body, _CONTAINER, "")
    if not _begins(policy.container_prefix, name):
        raise Refused(f"a server's name begins with {policy.container_prefix}")
    image = body.get("Image")
    if not isinstance(image, str) or not policy.takes_image(image):
        raise Refused(f"the image {image!r} is not one of TORCHROOM_GATE_IMAGES")
    host = body.get("HostConfig")
    if not isinstance(host, dict):
        raise Refused("a server without HostConfig has no limits")
    volumes = _host_config(policy, host)
    _mounted(body.get("Volumes"), host)
    devices = _devices(host.get("DeviceRequests"))
    _labels(policy, name, body.get("Labels"), devices)
    _environment(body.get("Env"), devices)
    return volumes


def volume(policy: Policy, body: Json) -> None:
    """Check what shall become a home.

    Raises:
        Refused: It could be more than a folder of the engine's own.
    """
    _only(body, _VOLUME, "volume: ")
    name, labels = body.get("Name"), body.get("Labels")
    if not _begins(policy.home_prefix, name):
        raise Refused(f"a home's name begins with {policy.home_prefix}")
    _label_set(policy, labels)


def execution(body: Json) -> None:
    """Check a command that shall be run inside a server.

    Raises:
        Refused: It would have more rights than the server.
    """
    _only(body, _EXECUTION, "exec: ")


def execution_start(body: Json) -> None:
    """Check how a command is started.

    Raises:
        Refused: A key is not known.
    """
    _only(body, _EXECUTION_START, "exec: ")


# -- of a container ----------------------------------------------------------------


def _host_config(policy: Policy, host: Json) -> list[str]:
    _only(host, _HOST, "HostConfig.")
    for key in ("Memory", "MemorySwap", "PidsLimit", "NanoCpus"):
        if not _is_count(host.get(key)):
            raise Refused(f"HostConfig.{key} must be a limit greater than 0")
    if host["MemorySwap"] != host["Memory"]:
        raise Refused("HostConfig.MemorySwap must equal Memory: no swap")
    if host.get("NetworkMode") != policy.network:
        raise Refused(f"HostConfig.NetworkMode must be {policy.network}")
    if host.get("CapDrop") != ["ALL"]:
        raise Refused('HostConfig.CapDrop must be ["ALL"]')
    caps = host.get("CapAdd") or []
    if not isinstance(caps, list) or not all(
        isinstance(cap, str) and cap.removeprefix("CAP_") in policy.caps for cap in caps
    ):
        raise Refused("HostConfig.CapAdd names more than TORCHROOM_GATE_CAPS")
    if host.get("SecurityOpt") not in NO_NEW_PRIVILEGES:
        raise Refused("HostConfig.SecurityOpt must be no-new-privileges and no more")
    binds, mounts = _mounting(host)
    found = [_bind(policy, bind) for bind in binds]
    found += [_mount(policy, mount) for mount in mounts]
    return [name for name in found if name]


def _mounting(host: Json) -> tuple[list[Any], list[Any]]:
    binds, mounts = host.get("Binds") or [], host.get("Mounts") or []
    if not isinstance(binds, list) or not isinstance(mounts, list):
        raise Refused("HostConfig.Binds and Mounts are lists")
    return binds, mounts


def _bind(policy: Policy, bind: object) -> str:
    """Return the volume that is mounted, "" for what the site allows."""
    parts = bind.split(":") if isinstance(bind, str) else []
    if len(parts) == 2:  # noqa: PLR2004 - source and folder
        parts.append("rw")
    if len(parts) != 3 or parts[2] not in {"rw", "ro"} or not _is_target(parts[1]):  # noqa: PLR2004
        raise Refused(f"HostConfig.Binds: {bind!r} is not VOLUME:/folder[:ro]")
    return _source(policy, parts[0], writes=parts[2] == "rw")


def _mounted(volumes: object, host: Json) -> None:
    """See that no volume is made beside those that are mounted: who would remove it?"""
    binds, mounts = _mounting(host)
    targets = {str(bind).split(":")[1] for bind in binds}
    targets |= {str(mount["Target"]) for mount in mounts}
    if isinstance(volumes, dict) and (beside := set(volumes) - targets):
        raise Refused(f"Volumes: nothing is mounted at {min(beside)!r}")


def _is_target(path: object) -> bool:
    """Not where kernel, runtime and hooks put what they have to say.

    The toolkit's hook takes /var/run/nvidia-container-devices/UUID for a request.
    """
    if not isinstance(path, str) or not is_folder(path):
        return False
    return not SYSTEM.match(path)


def _source(policy: Policy, source: str, *, writes: bool) -> str:
    if policy.may_mount(source, writes=writes):
        return ""
    if not _begins(policy.home_prefix, source):
        raise Refused(
            f"{source!r} may not be mounted: it is neither a home of this hub nor one "
            "of TORCHROOM_GATE_MOUNTS"
        )
    return source


def _mount(policy: Policy, mount: object) -> str:
    if not isinstance(mount, dict) or not _is_target(mount.get("Target")):
        raise Refused("HostConfig.Mounts: a mount has no usable Target")
    match mount.get("Type"):
        case "tmpfs":
            _only(mount, _TMPFS, "HostConfig.Mounts.")
            return ""
        case "volume":
            _only(mount, _VOLUME_MOUNT, "HostConfig.Mounts.")
            source = mount.get("Source")
            if not isinstance(source, str):
                raise Refused("HostConfig.Mounts: a volume has a name")
            return _source(policy, source, writes=mount.get("ReadOnly") is not True)
        case kind:
            raise Refused(f"HostConfig.Mounts: a server has no mount of type {kind!r}")


def _devices(requests: object) -> list[str]:
    """Return the identities of the GPUs that are asked for."""
    if requests in (None, []):
        return []
    if not isinstance(requests, list) or len(requests) != 1:
        raise Refused("HostConfig.DeviceRequests has one row")
    row = requests[0]
    if not isinstance(row, dict):
        raise Refused("HostConfig.DeviceRequests: the row is not an object")
    _only(row, _DEVICE_REQUEST, "HostConfig.DeviceRequests.")
    ids, driver = row.get("DeviceIDs"), row.get("Driver")
    prefix = CDI if driver == "cdi" else ""
    if not isinstance(ids, list) or not ids:
        raise Refused("HostConfig.DeviceRequests names no device")
    for one in ids:
        if not isinstance(one, str) or not one.startswith(prefix):
            raise Refused("HostConfig.DeviceRequests: GPUs are named by their UUIDs")
        if not DEVICE.fullmatch(one.removeprefix(prefix)):
            raise Refused("HostConfig.DeviceRequests: GPUs are named by their UUIDs")
    return [one.removeprefix(prefix) for one in ids]


def _label_set(policy: Policy, labels: object) -> Mapping[str, str]:
    if not isinstance(labels, dict) or labels.get(c.HUB) != policy.hub_id:
        raise Refused(f"the label {c.HUB} must be {policy.hub_id}")
    for key, value in labels.items():
        if not LABEL.fullmatch(key) or not _is_text(value):
            raise Refused(f"the label {key[:TEXT_SHOWN]!r} is none of the plugin's")
    return labels


def _labels(policy: Policy, name: str, labels: object, devices: list[str]) -> None:
    found = _label_set(policy, labels)
    missing = [key for key in LABELS if key not in found]
    if missing:
        raise Refused(f"the label {missing[0]} is missing")
    if found.get(c.NAME) != name:
        raise Refused(f"the label {c.NAME} must be the container's name")
    if found[c.DEVICES] != ",".join(devices):
        raise Refused(f"the label {c.DEVICES} contradicts DeviceRequests")


def _environment(rows: object, devices: list[str]) -> None:
    """See that the toolkit's hook gets to read what was asked for, and no more.

    Each of its variables must be there: one that is not might be the image's.
    """
    if not isinstance(rows, list) or not all(isinstance(row, str) for row in rows):
        raise Refused("Env is not a list of texts")
    pairs = [row.partition("=") for row in rows]
    visible = [value for name, _, value in pairs if name == VISIBLE]
    if visible not in ([c.VOID], [",".join(devices) or c.VOID]):
        raise Refused(f"{VISIBLE} must be {c.VOID} or the GPUs of DeviceRequests")
    for key, wanted in c.NEUTRAL.items():
        if [value for name, _, value in pairs if name == key] != [wanted]:
            raise Refused(f"a server's Env has {key}={wanted}, once")
    _no_preloading(rows)


def starts(found: Json) -> None:
    """Check an inspected container that is to be started.

    Its environment is the image's together with what was asked for, as the engine has
    made one of them: what is checked here is what NVIDIA's hooks will inherit.

    Raises:
        Refused: They would run code of the image's.
    """
    config = found.get("Config")
    rows = config.get("Env") if isinstance(config, dict) else None
    _no_preloading(rows if isinstance(rows, list) else [])


def _no_preloading(rows: Iterable[object]) -> None:
    names = {str(row).partition("=")[0] for row in rows}
    if found := PRELOADED & names:
        raise Refused(f"a server's Env, or its image's, has no {min(found)}")


# -- what a value may be -----------------------------------------------------------

Check = Callable[[object], bool]


def _only(found: Json, allowed: Mapping[str, Check], where: str) -> None:
    for key, value in found.items():
        check = allowed.get(key)
        if check is None:
            shown = key if key.isalnum() else repr(key[:TEXT_SHOWN])
            raise Refused(f"{where}{shown} is not for servers")
        if not check(value):
            raise Refused(f"{where}{key} has a value that is not for servers")


def _begins(prefix: str, name: object) -> bool:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return False
    return name.startswith(prefix) and name != prefix


def _is_any(value: object) -> bool:  # noqa: ARG001 - judged by its own function
    return True


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_no(value: object) -> bool:
    return value is None or value is False


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_MAX and "\x00" not in value


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_nothing(value: object) -> bool:
    return value is None or value in ("", [], {})


def _is_words(value: object) -> bool:
    if isinstance(value, str):
        return True
    return value is None or (
        isinstance(value, list) and all(isinstance(word, str) for word in value)
    )


def _is_set(fits: Check) -> Check:
    """Go's map[string]struct{}."""

    def check(value: object) -> bool:
        if value is None:
            return True
        return isinstance(value, dict) and all(
            fits(key) and inner == {} for key, inner in value.items()
        )

    return check


def _is_no_restart(value: object) -> bool:
    return value in ({"Name": "no"}, {"Name": "no", "MaximumRetryCount": 0})


def _is_options(keys: Mapping[str, Check]) -> Check:
    def check(value: object) -> bool:
        if value is None:
            return True
        return isinstance(value, dict) and all(
            key in keys and keys[key](inner) for key, inner in value.items()
        )

    return check


def _one_of(*allowed: object) -> Check:
    return lambda value: value in allowed


_CONTAINER: dict[str, Check] = {
    "Image": _is_text,
    "Cmd": _is_words,
    "Entrypoint": _is_words,
    "Env": _is_any,
    "Labels": _is_any,
    "HostConfig": _is_any,
    "ExposedPorts": _is_set(lambda key: bool(PORT.fullmatch(str(key)))),
    "Volumes": _is_set(_is_target),
    "User": _is_text,
    "WorkingDir": _is_text,
    "StopSignal": _is_text,
    "StopTimeout": _is_count,
    "Tty": _is_bool,
    "OpenStdin": _is_bool,
    "StdinOnce": _is_bool,
    "AttachStdin": _is_bool,
    "AttachStdout": _is_bool,
    "AttachStderr": _is_bool,
    "NetworkDisabled": _is_bool,
}
_HOST: dict[str, Check] = {
    "Memory": _is_count,
    "MemorySwap": _is_count,
    "ShmSize": _is_count,
    "PidsLimit": _is_count,
    "NanoCpus": _is_count,
    "NetworkMode": _is_text,
    "RestartPolicy": _is_no_restart,
    "AutoRemove": _is_no,
    "Init": _is_bool,
    "CapDrop": _is_any,
    "CapAdd": _is_any,
    "SecurityOpt": _is_any,
    "Binds": _is_any,
    "Mounts": _is_any,
    "DeviceRequests": _is_any,
    "Links": _is_nothing,
    "PortBindings": _is_nothing,
    "ReadonlyRootfs": _is_bool,
    "Dns": _one_of(None, [], ["127.0.0.1"]),  # with TORCHROOM_INTERNET=none
}
_DEVICE_REQUEST: dict[str, Check] = {
    "Driver": _one_of("nvidia", "cdi"),
    "Count": _one_of(0),
    "DeviceIDs": _is_any,
    "Capabilities": _one_of(None, [], [["gpu", "compute", "utility"]]),
    "Options": _is_nothing,
}
_VOLUME_MOUNT: dict[str, Check] = {
    "Type": _is_any,
    "Source": _is_any,
    "Target": _is_any,
    "ReadOnly": _is_bool,
    "VolumeOptions": _is_options({"NoCopy": _is_bool}),
}
_TMPFS: dict[str, Check] = {
    "Type": _is_any,
    "Target": _is_any,
    "ReadOnly": _is_bool,
    "TmpfsOptions": _is_options({"SizeBytes": _is_count, "Mode": _is_count}),
}
_VOLUME: dict[str, Check] = {
    "Name": _is_any,
    "Labels": _is_any,
    "Driver": _one_of(None, "", "local"),
    "DriverOpts": _is_nothing,
}
_EXECUTION: dict[str, Check] = {
    "Container": _is_text,  # docker-py repeats it; the engine reads the path
    "Cmd": _is_words,
    "User": _is_text,
    "Env": _is_words,
    "WorkingDir": _is_text,
    "Privileged": _is_no,
    "Tty": _is_bool,
    "AttachStdin": _is_bool,
    "AttachStdout": _is_bool,
    "AttachStderr": _is_bool,
}
_EXECUTION_START: dict[str, Check] = {"Detach": _is_bool, "Tty": _is_bool}


def told(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the hub is told of a container that is not its own.

    Enough to see that it holds a GPU and since when it runs; nothing of its
    environment, command, mounts and addresses.
    """
    host = found.get("HostConfig") or {}
    state = {k: v for k, v in (found.get("State") or {}).items() if k != "Health"}
    labels = (found.get("Config") or {}).get("Labels")
    return {
        "Id": found.get("Id"),
        "Name": found.get("Name"),
        "Created": found.get("Created"),
        "State": state,
        "Config": {"Labels": _plugin_labels(labels)},
        "HostConfig": {"DeviceRequests": host.get("DeviceRequests")},
    }


def told_row(found: dict[str, Any]) -> dict[str, Any]:
    """Return the same of a container in a list."""
    keys = ("Id", "Names", "State", "Status", "Created")
    return {
        **{key: found.get(key) for key in keys},
        "Labels": _plugin_labels(found.get("Labels")),
    }


def _plugin_labels(labels: object) -> dict[str, object]:
    """The labels of any hub's servers; others may hold anything, secrets too."""
    found = labels if isinstance(labels, dict) else {}
    return {key: value for key, value in found.items() if LABEL.fullmatch(key)}

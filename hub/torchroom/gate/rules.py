"""Which requests the hub may make, decided before the engine hears of them. Pure.

A request is taken apart completely: what is not listed here, in path, query or body, is
refused. Three things can only be known by asking the engine (whose container, whose
command, whose volume is it); a `Judged` names them, and the relay asks.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import quote, unquote_to_bytes, urlencode

from gpuspawner.container import HUB

from torchroom.gate import bodies
from torchroom.gate.errors import Malformed, Refused
from torchroom.gate.messages import Head, read_json
from torchroom.gate.policy import Policy

VERSION = re.compile(r"/v1\.([0-9]{1,3})(/.*)")
# Engines before 19.03; some of their requests take settings in other places.
VERSION_MIN = 40
PATH = re.compile(r"(/[A-Za-z0-9._:@+-]+)+")
PAIR = re.compile(r"([a-zA-Z_]{1,32})=([A-Za-z0-9._~+*'()!,:/%-]*)")
# Without a tag or digest; a colon before a slash is a registry's port.
UNTAGGED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5}(?=/))?(/[a-z0-9._-]+)*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|sha256:[0-9a-f]{64}")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,400}")
TIME = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
FLAG = re.compile(r"0|1|true|false|True|False")
NUMBER = re.compile(r"-?[0-9]{1,5}")
INSIDE = re.compile(r"/[^\x00-\x1f]{0,4095}")
PLATFORM = re.compile(r"[a-z0-9/]{1,40}")
FILTERS = {"type", "event", "container", "label"}


class Kind(Enum):
    """What the relay does with a request."""

    PASS = auto()  # forward it
    LIST = auto()  # all containers: shorten what is told of others'
    INSPECT = auto()  # one container: likewise
    CONTAINER = auto()  # forward it if the container is ours
    START = auto()  # forward it if the container is ours and its environment harmless
    EXECUTION = auto()  # forward it if the command runs in a container of ours
    VOLUME = auto()  # forward it if the volume is ours, or is not there
    CREATE = auto()  # forward it if the volumes are ours


class Body(Enum):
    """What comes after a request's head."""

    NONE = auto()
    JSON = auto()  # read and judged
    TAR = auto()  # any size; not read


Read = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of request.

    Attributes:
        method: In capitals.
        path: With one {} at most.
        kind: What the relay does with it.
        query: Key -> which values are understood.
        body: What comes with it.
        upgrades: It may turn into a stream.
        needs: Keys that must be in the query.
    """

    method: str
    path: str
    kind: Kind = Kind.PASS
    query: Mapping[str, Read] = field(default_factory=dict)
    body: Body = Body.NONE
    upgrades: bool = False
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """A request that may be made, as far as it can be told without the engine.

    Attributes:
        route: Which one it is.
        version: "/v1.41" or "".
        ref: Name or id in its path, "" if there is none.
        query: Its query in the one form that is sent on; begins with "?" or is "".
        name: Of what is created.
    """

    route: Route
    version: str
    ref: str
    query: str
    name: str = ""

    def target(self, ref: str = "") -> str:
        """Return path and query for the engine.

        Args:
            ref: What stands in the path instead of what the hub wrote there.
        """
        path = self.route.path.format(quote(ref or self.ref, safe="/:@+"))
        return f"{self.version}{path}{self.query}"


def _fits(pattern: re.Pattern[str]) -> Read:
    return lambda value: pattern.fullmatch(value) is not None


def _is_inside(path: str) -> bool:
    """Return whether this is a path in a container that says what it means."""
    return INSIDE.fullmatch(path) is not None and not {".", ".."} & set(path.split("/"))


_FLAG, _TIME, _NUMBER = _fits(FLAG), _fits(TIME), _fits(NUMBER)

ROUTES = (
    Route("GET", "/_ping"),
    Route("HEAD", "/_ping"),
    Route("GET", "/version"),
    Route("GET", "/info"),
    Route(
        "GET",
        "/events",
        query={"since": _TIME, "until": _TIME, "filters": lambda _: True},
    ),
    Route(
        "GET",
        "/containers/json",
        Kind.LIST,
        {
            "all": _FLAG,
            "limit": lambda value: value == "-1",
            "size": lambda value: value == "0",
            "trunc_cmd": _FLAG,
        },
    ),
    Route("GET", "/containers/{}/json", Kind.INSPECT),
    Route(
        "POST",
        "/containers/create",
        Kind.CREATE,
        {"name": _fits(bodies.NAME)},
        Body.JSON,
        needs=("name",),
    ),
    Route("POST", "/containers/{}/start", Kind.START),
    Route(
        "POST",
        "/containers/{}/stop",
        Kind.CONTAINER,
        {"t": _NUMBER},
    ),
    Route(
        "DELETE",
        "/containers/{}",
        Kind.CONTAINER,
        {"v": _FLAG, "force": _FLAG, "link": lambda value: value in {"0", "False"}},
    ),
    Route(
        "GET",
        "/containers/{}/archive",
        Kind.CONTAINER,
        {"path": _is_inside},
        needs=("path",),
    ),
    Route(
        "PUT",
        "/containers/{}/archive",
        Kind.CONTAINER,
        {"path": _is_inside},
        Body.TAR,
        needs=("path",),
    ),
    Route("POST", "/containers/{}/exec", Kind.CONTAINER, body=Body.JSON),
    Route("POST", "/exec/{}/start", Kind.EXECUTION, body=Body.JSON, upgrades=True),
    Route("GET", "/exec/{}/json", Kind.EXECUTION),
    Route("GET", "/images/{}/json"),
    Route(
        "POST",
        "/images/create",
        query={
            "fromImage": _fits(UNTAGGED),
            "tag": _fits(TAG),
            "platform": _fits(PLATFORM),
        },
        needs=("fromImage", "tag"),
    ),
    Route("POST", "/volumes/create", body=Body.JSON),
    Route("GET", "/volumes/{}", Kind.VOLUME),
    Route("DELETE", "/volumes/{}", Kind.VOLUME, {"force": _FLAG}),
)
_FIXED = {(r.method, r.path): r for r in ROUTES if "{}" not in r.path}
_SHAPED = [
    (re.compile(re.escape(r.path).replace(r"\{\}", "([^/].*)")), r)
    for r in ROUTES
    if "{}" in r.path
]


def judge(policy: Policy, head: Head) -> Judged:
    """Return what this request is.

    Raises:
        Refused: It is none that servers need; the text says which it is.
        Malformed: Path or query may be read in more than one way.
    """
    raw_path, has_query, raw_query = head.target.partition("?")
    version, path = _path(raw_path)
    route, ref = _route(head.method, path)
    if route.upgrades is False and head.upgrades:
        raise Refused(f"{head.method} {route.path} is not a stream")
    if route.body is Body.NONE and head.length != 0:
        raise Refused(f"{head.method} {route.path} has no body")
    if route.body is Body.JSON and head.length is None:
        raise Refused(f"{head.method} {route.path} must say how long its body is")
    if head.credentials and route.path != "/images/create":
        raise Refused("a registry's credentials belong to a pull")
    query = _query(route, raw_query) if has_query else {}
    for key in route.needs:
        if key not in query:
            raise Refused(f"{head.method} {route.path} needs {key}=")
    if route.path == "/events":
        query["filters"] = _own_events(policy, query.get("filters", "{}"))
    if route.path == "/images/create":
        _image(policy, query["fromImage"], query["tag"])
    text = f"?{urlencode(query, quote_via=quote)}" if query else ""
    return Judged(route, version, ref, text, name=query.get("name", ""))


def check_body(policy: Policy, judged: Judged, body: bodies.Json) -> list[str]:
    """Check a request's JSON; return the volumes of this hub that it mounts.

    Raises:
        Refused: It asks for more than a server may have.
    """
    match judged.route.path:
        case "/containers/create":
            return bodies.container(policy, judged.name, body)
        case "/volumes/create":
            bodies.volume(policy, body)
        case "/containers/{}/exec":
            bodies.execution(body)
        case "/exec/{}/start":
            bodies.execution_start(body)
        case other:
            raise Refused(f"{other} has no body")
    return []


def _path(raw: str) -> tuple[str, str]:
    """Return the API's version and the path without it, decoded once."""
    try:
        path = unquote_to_bytes(raw).decode("ascii")
    except UnicodeDecodeError:
        raise Malformed("the path is not plain ASCII") from None
    if not PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise Malformed("the path is not a plain one")
    found = VERSION.fullmatch(path)
    if found is None:
        return "", path
    if int(found[1]) < VERSION_MIN:
        raise Refused(f"API versions below 1.{VERSION_MIN} are not spoken here")
    return f"/v1.{int(found[1])}", found[2]


def _route(method: str, path: str) -> tuple[Route, str]:
    if found := _FIXED.get((method, path)):
        return found, ""
    for pattern, route in _SHAPED:
        match = pattern.fullmatch(path)
        if match is None or route.method != method:
            continue
        fits = IMAGE if route.path.startswith("/images/") else bodies.NAME
        if fits.fullmatch(match[1]):
            return route, match[1]
    raise Refused(f"{method} {path[:200]} is nothing that servers need")


def _query(route: Route, raw: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in raw.split("&"):
        pair = PAIR.fullmatch(text)
        if pair is None:
            raise Malformed("the query is not written as key=value&key=value")
        key = pair[1]
        try:
            value = unquote_to_bytes(pair[2].replace("+", " ")).decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"the query's {key} is not UTF-8") from None
        if key in found:
            raise Malformed(f"the query says {key} twice")
        reads = route.query.get(key)
        if reads is None or not reads(value):
            raise Refused(f"{route.method} {route.path} takes no {key}={value[:80]!r}")
        found[key] = value
    return found


def _own_events(policy: Policy, raw: str) -> str:
    """Return the filters with one more: nothing is told of others' containers."""
    filters = read_json(raw.encode())
    for key, values in filters.items():
        is_list = isinstance(values, list) and all(isinstance(v, str) for v in values)
        if key not in FILTERS or not is_list:
            raise Refused(f"events are not filtered by {key[:80]!r}")
    labels = filters.get("label", [])
    mine = f"{HUB}={policy.hub_id}"
    known = labels if isinstance(labels, list) else []
    return json.dumps({**filters, "label": [*(x for x in known if x != mine), mine]})


def _image(policy: Policy, name: str, tag: str) -> None:
    """The engine lets `tag` replace a tag in the name, so the name must have none."""
    whole = f"{name}@{tag}" if ":" in tag else f"{name}:{tag}"
    if not policy.takes_image(whole):
        raise Refused(f"the image {whole} is not one of TORCHROOM_GATE_IMAGES")

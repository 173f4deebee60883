"""The head of one HTTP request: read strictly, and written anew. Pure.

Nothing of what the hub wrote goes on as it came: the engine gets a head made from what
was judged, so that the two cannot read one request differently.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import responses

from torchroom.gate.errors import Malformed

HEAD_MAX = 64 * 1024  # bytes; a registry's credentials are a few thousand
_LINE = re.compile(r"(GET|HEAD|POST|PUT|DELETE) (/[!-~]*) HTTP/1\.1")
_HEADER = re.compile(r"([A-Za-z0-9-]{1,64}): *([ -~]*)")
_LENGTH = re.compile(r"0|[1-9][0-9]{0,14}")
_BODIES = {"POST", "PUT"}
_CREDENTIALS = "x-registry-auth"


@dataclass(frozen=True, slots=True)
class Head:
    """What a request says before its body.

    Attributes:
        method: In capitals.
        target: Path and query as they came.
        length: Bytes of the body; None: it comes in chunks.
        upgrades: The connection shall become a stream in both directions.
        credentials: For a registry, "" if none.
    """

    method: str
    target: str
    length: int | None = 0
    upgrades: bool = False
    credentials: str = ""


def parse(raw: bytes) -> Head:
    """Return the head that these bytes are, up to and with the empty line.

    Raises:
        Malformed: Another program might read them differently.
    """
    try:
        first, *lines = raw.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    except UnicodeDecodeError:
        raise Malformed("the request's head is not plain ASCII") from None
    line = _LINE.fullmatch(first)
    if line is None:
        raise Malformed("the first line is not METHOD /path HTTP/1.1")
    headers: dict[str, str] = {}
    for text in lines:
        found = _HEADER.fullmatch(text)
        if found is None:
            raise Malformed("a header is not written as Name: value")
        name = found[1].lower()
        if name in headers:
            raise Malformed(f"the header {found[1]} comes twice")
        headers[name] = found[2].strip(" ")
    method, target = line[1], line[2]
    return Head(
        method,
        target,
        length=_length(method, headers),
        upgrades=_upgrades(headers),
        credentials=headers.get(_CREDENTIALS, ""),
    )


def _length(method: str, headers: Mapping[str, str]) -> int | None:
    length = headers.get("content-length")
    coding = headers.get("transfer-encoding")
    if length is not None and coding is not None:
        raise Malformed("Content-Length and Transfer-Encoding contradict each other")
    if coding is not None and coding != "chunked":
        raise Malformed("Transfer-Encoding is not chunked")
    if length is not None and not _LENGTH.fullmatch(length):
        raise Malformed("Content-Length is not a number")
    found = None if coding else int(length or 0)
    if method not in _BODIES and found != 0:
        raise Malformed(f"a {method} comes without a body")
    return found


def _upgrades(headers: Mapping[str, str]) -> bool:
    wanted = headers.get("upgrade")
    if wanted is None:
        return False
    if wanted.lower() != "tcp" or headers.get("connection", "").lower() != "upgrade":
        raise Malformed("only Connection: Upgrade with Upgrade: tcp is understood")
    return True


def request(head: Head, target: str, length: int | None) -> bytes:
    """Return the head that the engine gets.

    Args:
        head: What was judged.
        target: Path and query in their one form.
        length: Bytes of the body that follow, None: chunks.
    """
    lines = [f"{head.method} {target} HTTP/1.1", "Host: docker"]
    if head.method in _BODIES:
        lines.append(
            "Transfer-Encoding: chunked"
            if length is None
            else f"Content-Length: {length}"
        )
        is_tar = head.method == "PUT"
        kind = "application/x-tar" if is_tar else "application/json"
        if length != 0:
            lines.append(f"Content-Type: {kind}")
    if head.credentials:
        lines.append(f"X-Registry-Auth: {head.credentials}")
    if head.upgrades:
        lines += ["Connection: Upgrade", "Upgrade: tcp"]
    else:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def question(target: str) -> bytes:
    """Return a question of the gate's own: in HTTP/1.0, so its answer has no chunks."""
    return f"GET {target} HTTP/1.0\r\nHost: docker\r\n\r\n".encode("ascii")


def answer(status: int, body: bytes, *, with_body: bool = True) -> bytes:
    """Return an answer in JSON with its head, after which the connection ends."""
    head = (
        f"HTTP/1.1 {status} {responses.get(status, '')}\r\n"
        f"Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + (body if with_body else b"")


def said(message: str) -> bytes:
    """Return a sentence as the engine says one."""
    return json.dumps({"message": message}).encode()


def status_of(head: bytes) -> int:
    """Return the status in the first line of an answer.

    Raises:
        ValueError: There is none.
    """
    found = re.match(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]", head)
    if found is None:
        raise ValueError("the engine's answer is not HTTP")
    return int(found[1])


def read_json(raw: bytes) -> dict[str, object]:
    """Return the object that a body is; b"" is an empty one.

    Raises:
        Malformed: It is something else, or says a key twice.
    """
    if not raw:
        return {}
    try:
        found = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the body cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise Malformed("the body is not a JSON object")
    return found


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")

"""One request to the hub's own network, with this server's own token.

Short time-out, no proxy, no redirect (the token is for the hub alone).
Whatever fails is one sentence in ``NoAnswer``.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.parse
from dataclasses import dataclass
from typing import Any

TOKEN_VARIABLE = "JUPYTERHUB_API_TOKEN"  # noqa: S105 - its name, not a token
ANSWER_BYTES_MAX = 1 << 20
INTEGER_MAX = (1 << 63) - 1
REFUSED = (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)


class NoAnswer(Exception):
    """The hub did not say; the text says why and what to do, without a full stop."""


@dataclass(frozen=True)
class Reply:
    """What came back: a status other than a refusal of the token, and bytes."""

    status: int
    body: bytes

    def fields(self) -> dict[str, Any]:
        """The body as a JSON object; raises NoAnswer."""
        try:
            raw = json.loads(self.body)
        # A deeply nested body exhausts the stack before it fails to parse.
        except (ValueError, RecursionError):
            raw = None
        if len(self.body) > ANSWER_BYTES_MAX or not isinstance(raw, dict):
            raise _garbled("no JSON")
        return raw


def send(method: str, url: str, *, timeout_s: float, body: object = None) -> Reply:
    """Send a request, with a JSON body if there is one; raises NoAnswer only."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise NoAnswer(f"this notebook has no {TOKEN_VARIABLE} to ask with")
    try:
        reply = _exchange(method, url, token, timeout_s, body)
    # ValueError: an address or a token that no request can be made of
    except (OSError, http.client.HTTPException, ValueError):
        raise NoAnswer("the hub does not answer; try again in a minute") from None
    if reply.status in REFUSED:
        raise NoAnswer(
            "the hub does not accept this server's token; stop and start the server "
            "to get a new one"
        )
    return reply


def _exchange(
    method: str, url: str, token: str, timeout_s: float, body: object
) -> Reply:
    """Plain http.client, which follows no redirect and no proxy."""
    parts = urllib.parse.urlsplit(url)
    connect = {
        "http": http.client.HTTPConnection,
        "https": http.client.HTTPSConnection,
    }.get(parts.scheme)
    if connect is None:
        raise NoAnswer("the hub named no address to ask")
    connection = connect(parts.netloc, timeout=timeout_s)
    headers = {"Authorization": f"token {token}", "Accept": "application/json"}
    content = None
    if body is not None:
        content = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, parts.path, body=content, headers=headers)
        answer = connection.getresponse()
        return Reply(answer.status, answer.read(ANSWER_BYTES_MAX + 1))
    finally:
        connection.close()


def unexpected(reply: Reply) -> NoAnswer:
    """What to raise for a reply that is of no use."""
    text = f"the hub answered with status {reply.status}; try again in a minute"
    return NoAnswer(text)


def whole(raw: dict[str, Any], key: str) -> int:
    """A whole number, 0 or more; raises NoAnswer."""
    value = raw.get(key)
    # JSON's true is an int to Python; 1.0 would bring floats near money.
    if isinstance(value, bool) or not isinstance(value, int):
        raise _garbled(key)
    if not 0 <= value <= INTEGER_MAX:
        raise _garbled(key)
    return value


def text(raw: dict[str, Any], key: str) -> str:
    """Text; raises NoAnswer."""
    value = raw.get(key)
    if not isinstance(value, str):
        raise _garbled(key)
    return value


def _garbled(what: str) -> NoAnswer:
    return NoAnswer(f"the hub's answer is garbled ({what}); show this line to an admin")

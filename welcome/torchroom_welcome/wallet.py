"""Asks the hub's ledger for the owner's tokens, with this server's own token.

One request to the hub's own network: short time-out, no proxy, no redirect (the token
is for the ledger alone). Whatever fails is one sentence in ``WalletUnknown``.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.parse
from dataclasses import dataclass
from typing import Any

TOKEN_VARIABLE = "JUPYTERHUB_API_TOKEN"  # noqa: S105 - its name, not a token
TIMEOUT_S = 3.0
ANSWER_BYTES_MAX = 1 << 20
INTEGER_MAX = (1 << 63) - 1
REFUSED = (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)


class WalletUnknown(Exception):
    """The ledger did not say; the text says why, without a full stop."""


@dataclass(frozen=True)
class Wallet:
    """The owner's tokens at this moment.

    Attributes:
        spendable: Microtokens that are left, with what servers used until now taken
            off and what is reserved for them still in it.
        per_hour: What all their servers burn together.
        seconds_left: How long that lasts; None if nothing is burned.
    """

    spendable: int
    per_hour: int
    seconds_left: int | None


def ask(url: str, *, timeout_s: float = TIMEOUT_S) -> Wallet:
    """The answer of ``GET {url}/me``; raises WalletUnknown, and nothing else."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise WalletUnknown(f"this notebook has no {TOKEN_VARIABLE} to ask with")
    try:
        status, body = _get(f"{url.rstrip('/')}/me", token, timeout_s)
    # ValueError: an address or a token that no request can be made of
    except (OSError, http.client.HTTPException, ValueError):
        raise WalletUnknown("the ledger does not answer") from None
    if status in REFUSED:
        raise WalletUnknown(
            "the ledger does not accept this server's token; stop and start the "
            "server to get a new one"
        )
    if status != http.HTTPStatus.OK:
        raise WalletUnknown(f"the ledger answered with status {status}")
    return parse(body)


def _get(url: str, token: str, timeout_s: float) -> tuple[int, bytes]:
    """Status and body; plain http.client, which follows no redirect and no proxy."""
    parts = urllib.parse.urlsplit(url)
    connect = {
        "http": http.client.HTTPConnection,
        "https": http.client.HTTPSConnection,
    }.get(parts.scheme)
    if connect is None:
        raise WalletUnknown("the hub named no address to ask")
    connection = connect(parts.netloc, timeout=timeout_s)
    headers = {"Authorization": f"token {token}", "Accept": "application/json"}
    try:
        connection.request("GET", parts.path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.read(ANSWER_BYTES_MAX + 1)
    finally:
        connection.close()


def parse(data: bytes) -> Wallet:
    """Validate an answer; raises WalletUnknown."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raw = None
    if len(data) > ANSWER_BYTES_MAX or not isinstance(raw, dict):
        raise WalletUnknown("the ledger's answer is garbled")
    seconds = raw.get("seconds_left")
    return Wallet(
        spendable=_integer(raw, "spendable"),
        per_hour=_integer(raw, "microtokens_per_hour"),
        seconds_left=None if seconds is None else _integer(raw, "seconds_left"),
    )


def _integer(raw: dict[str, Any], key: str) -> int:
    value = raw.get(key)
    # JSON's true is an int to Python; 1.0 would bring floats near money.
    if isinstance(value, bool) or not isinstance(value, int):
        raise WalletUnknown(f"the ledger's answer is garbled: {key}")
    if not 0 <= value <= INTEGER_MAX:
        raise WalletUnknown(f"the ledger's answer is garbled: {key}")
    return value

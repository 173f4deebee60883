"""The facts file: what the hub says about this server.

The hub writes the file before every start. Here it is only read and validated; this
module never guesses a value. Unknown keys are ignored, so a newer hub may add some.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH_VARIABLE = "GPUSPAWNER_FACTS"
DEFAULT_PATH = "/opt/gpuspawner/server.json"
FILE_BYTES_MAX = 1 << 20
INTEGER_MAX = (1 << 63) - 1


class FactsError(ValueError):
    """The facts are missing or not as promised; the message is fit for a student."""


@dataclass(frozen=True)
class Device:
    """A leased GPU. Its identity is ``uuid``; ``index`` is for people."""

    uuid: str
    index: int
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Lease:
    """This server's right to its devices; there is at least one."""

    id: str
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class Limits:
    """What the container may use; None where the hub set no limit."""

    memory_bytes: int | None = None
    shm_bytes: int | None = None
    n_cpus: float | None = None
    pids: int | None = None


@dataclass(frozen=True)
class TokenFacts:
    """What the hub says about tokens; amounts are integers of microtokens.

    ``url`` is where the ledger is asked for newer figures, "" if nowhere.
    """

    provider: str = "none"
    is_placeholder: bool = True
    balance_microtokens: int | None = None
    rate_microtokens_per_hour: int | None = None
    note: str = ""
    url: str = ""


@dataclass(frozen=True)
class Facts:
    """All facts, or ``problem``: a sentence that says why there are none.

    Every server has a ``lease_id``, also one without devices; "" if the hub does not
    tell it.
    """

    user: str = ""
    server: str = ""
    lease_id: str = ""
    lease: Lease | None = None
    why_no_gpu: str | None = None
    simulated: bool = False
    limits: Limits = Limits()
    tokens: TokenFacts = TokenFacts()
    problem: str | None = None


def load(path: str | None = None) -> Facts:
    """Read the facts file; never raises, see ``Facts.problem``."""
    place = path or os.environ.get(PATH_VARIABLE) or DEFAULT_PATH
    try:
        return parse(_read(Path(place)))
    except FactsError as error:
        return Facts(problem=str(error))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise FactsError(
            f"There is no facts file at {path}: this is not a Torchroom server, "
            "or the server was started in an unusual way."
        ) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FactsError(f"The facts file {path} cannot be read: {reason}.") from None
    if len(data) > FILE_BYTES_MAX:
        raise FactsError(f"The facts file {path} is far too long to be one.")
    return data


def parse(data: bytes) -> Facts:
    """Validate the file's content; raises FactsError that names the wrong field."""
    try:
        raw = json.loads(data)
    # A deeply nested file exhausts the stack before it fails to parse.
    except (ValueError, RecursionError):
        raise FactsError("The facts file is garbled: it is not JSON.") from None
    facts = _Fields(raw, "the facts")
    lease = _lease(facts.get("lease"))
    return Facts(
        user=facts.text("user"),
        server=facts.text("server", default=""),
        lease_id=facts.text("lease_id", default=lease.id if lease else ""),
        lease=lease,
        why_no_gpu=facts.optional_text("why_no_gpu"),
        simulated=facts.flag("simulated"),
        limits=_limits(facts.get("limits")),
        tokens=_tokens(facts.get("tokens")),
    )


def _lease(raw: Any) -> Lease | None:
    if raw is None:
        return None
    lease = _Fields(raw, "lease")
    devices = lease.get("devices")
    if not isinstance(devices, list) or not devices:
        raise _garbled("lease.devices")
    return Lease(lease.text("id"), tuple(_device(one) for one in devices))


def _device(raw: Any) -> Device:
    device = _Fields(raw, "lease.devices")
    return Device(
        uuid=device.text("uuid"),
        index=device.count("index"),
        name=device.text("name"),
        memory_bytes=device.count("memory_bytes"),
    )


def _limits(raw: Any) -> Limits:
    if raw is None:
        return Limits()
    limits = _Fields(raw, "limits")
    return Limits(
        memory_bytes=limits.optional_count("memory_bytes"),
        shm_bytes=limits.optional_count("shm_bytes"),
        n_cpus=limits.optional_number("n_cpus"),
        pids=limits.optional_count("pids"),
    )


def _tokens(raw: Any) -> TokenFacts:
    if raw is None:
        return TokenFacts()
    tokens = _Fields(raw, "tokens")
    return TokenFacts(
        provider=tokens.text("provider"),
        is_placeholder=tokens.flag("is_placeholder"),
        balance_microtokens=tokens.optional_integer("balance_microtokens"),
        rate_microtokens_per_hour=tokens.optional_count("rate_microtokens_per_hour"),
        note=tokens.optional_text("note") or "",
        url=tokens.optional_text("url") or "",
    )


def _garbled(field: str) -> FactsError:
    return FactsError(f"The facts file is garbled: {field} is not as expected.")


class _Fields:
    """Typed access to one JSON object; every mismatch is a FactsError."""

    def __init__(self, raw: Any, where: str) -> None:
        if not isinstance(raw, dict):
            raise _garbled(where)
        self._raw = raw
        self._where = where

    def get(self, key: str) -> Any:
        return self._raw.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._raw.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key)
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.get(key) is None else self.text(key)

    def flag(self, key: str) -> bool:
        value = self._raw.get(key, False)
        if not isinstance(value, bool):
            raise self._wrong(key)
        return value

    def optional_integer(self, key: str) -> int | None:
        value = self.get(key)
        if value is None:
            return None
        # JSON's true is an int to Python; 1.0 would bring floats near money.
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key)
        if abs(value) > INTEGER_MAX:
            raise self._wrong(key)
        return value

    def optional_count(self, key: str) -> int | None:
        value = self.optional_integer(key)
        if value is not None and value < 0:
            raise self._wrong(key)
        return value

    def count(self, key: str) -> int:
        value = self.optional_count(key)
        if value is None:
            raise self._wrong(key)
        return value

    def optional_number(self, key: str) -> float | None:
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(key)
        if not 0 < value <= INTEGER_MAX:  # NaN and Infinity fail this, too
            raise self._wrong(key)
        return float(value)

    def _wrong(self, key: str) -> FactsError:
        return _garbled(f"{self._where}.{key}")

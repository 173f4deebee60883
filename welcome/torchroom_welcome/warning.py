"""What the hub warns of: that this server will stop, when, and what more time costs.

Asked of the hub's ledger, which also takes an extension; see ``asking`` for how.
"""

from __future__ import annotations

import http
import urllib.parse
from dataclasses import dataclass
from typing import Any

from torchroom_welcome import asking
from torchroom_welcome.asking import NoAnswer, text, whole
from torchroom_welcome.facts import Facts
from torchroom_welcome.panel import Note
from torchroom_welcome.tokens import duration_text, tokens_text

TIMEOUT_S = 5.0
TAKEN = (http.HTTPStatus.OK, http.HTTPStatus.CREATED)
SENTENCE_MAX = 500


class NotExtended(Exception):
    """There is no more time; the text is a sentence for the student."""


@dataclass(frozen=True)
class Notice:
    """That this server will stop.

    Attributes:
        lease: Which lease; another one is another server.
        reason: The hub's word for why.
        sentence: What happens and why.
        seconds_left: None: as soon as what runs on its GPU has ended.
        extend_by_s: What one extension adds.
        microtokens: What it costs.
        n_extensions_left: How many there are.
        next_extension: The number to ask for; None: there is none.
    """

    lease: str
    reason: str
    sentence: str
    seconds_left: int | None
    extend_by_s: int
    microtokens: int
    n_extensions_left: int
    next_extension: int | None


def has_source(facts: Facts) -> bool:
    """Whether this server's hub warns at all."""
    return facts.tokens.provider == "torchroom" and bool(facts.tokens.url)


def look(facts: Facts, *, timeout_s: float = TIMEOUT_S) -> Notice | None:
    """What the hub warns of now, None if nothing; raises NoAnswer only.

    A warning of an earlier start of this server is nothing: see ``is_of``.
    """
    reply = asking.send("GET", _url(facts, "notice"), timeout_s=timeout_s)
    if reply.status == http.HTTPStatus.NO_CONTENT:
        return None
    if reply.status != http.HTTPStatus.OK:
        raise asking.unexpected(reply)
    notice = _parse(reply.fields())
    return notice if is_of(facts, notice.lease) else None


def is_of(facts: Facts, lease: str) -> bool:
    """Whether a lease is this server's, or may be: old facts do not name every one."""
    return facts.lease_id in {"", lease}


def extend(
    facts: Facts, lease: str, number: int, *, timeout_s: float = TIMEOUT_S
) -> Notice:
    """Take an extension; raises NotExtended or NoAnswer, and nothing else.

    The same number again takes nothing more, so it is safe to try again.
    """
    if not is_of(facts, lease):
        raise NotExtended("This server was started anew since. Reload this page.")
    body = {"lease": lease, "extension": number}
    url = _url(facts, "extension")
    reply = asking.send("POST", url, timeout_s=timeout_s, body=body)
    if reply.status in TAKEN:
        return _parse(reply.fields())
    raise NotExtended(text(reply.fields(), "message")[:SENTENCE_MAX])


def notes(facts: Facts) -> tuple[Note, ...]:
    """The warning as a line of a panel, if there is one; never raises."""
    if not has_source(facts):
        return ()
    try:
        notice = look(facts)
    except NoAnswer:
        return ()  # the tokens' own line says that the ledger is silent
    if notice is None:
        return ()
    said = notice.sentence
    if notice.seconds_left is not None:  # what it says of when was true some time ago
        cause = said.partition(". ")[0].rstrip(".")
        said = f"{cause}. Stops in {duration_text(notice.seconds_left)}."
    if notice.next_extension is not None:
        cost = tokens_text(notice.microtokens) if notice.microtokens else "free"
        n_left = notice.n_extensions_left
        times = "last time" if n_left == 1 else f"{n_left} times left"
        said += (
            f" {duration_text(notice.extend_by_s)} more: {cost}, {times}; press Extend "
            "in JupyterLab's notification, or on the hub's page Services, torchroom."
        )
    return (Note("banner", said),)


def _url(facts: Facts, what: str) -> str:
    # "-" is the default server, which has no name.
    name = urllib.parse.quote(facts.server or "-", safe="")
    return f"{facts.tokens.url.rstrip('/')}/me/servers/{name}/{what}"


def _parse(raw: dict[str, Any]) -> Notice:
    """Validate an answer; raises NoAnswer."""
    left, following = raw.get("seconds_left"), raw.get("next_extension")
    return Notice(
        lease=text(raw, "lease"),
        reason=text(raw, "reason"),
        sentence=text(raw, "sentence")[:SENTENCE_MAX],
        seconds_left=None if left is None else whole(raw, "seconds_left"),
        extend_by_s=whole(raw, "extend_by_s"),
        microtokens=whole(raw, "microtokens"),
        n_extensions_left=whole(raw, "n_extensions_left"),
        next_extension=None if following is None else whole(raw, "next_extension"),
    )

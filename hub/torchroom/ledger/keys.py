"""Idempotency keys and requests that cannot be mistaken for one another.

What people send as a key lives in a space of its own per sender, so that nobody can
take the key of a welcome gift or an allowance, or another sender's.
"""

import hashlib
import json
from urllib.parse import quote

from torchroom.ledger.names import KEY_MAX, check_key


def asked_key(actor: str, key: str) -> str:
    """Return the transaction's key for a key that somebody sent.

    Raises:
        BadInput: Not 1 to 200 printable ASCII characters.
    """
    return own_key("ask", actor, check_key(key))


def own_key(what: str, *parts: str | int) -> str:
    """Return the key of a transaction that exists once for these parts.

    Different parts give different keys, whatever characters are in them.
    """
    key = ":".join(
        [what, *(quote(str(part), errors="surrogatepass") for part in parts)]
    )
    if len(key) <= KEY_MAX:
        return key
    # "#" is in no other key: quoting does away with it.
    return f"{what}:#{hashlib.sha256(key.encode()).hexdigest()}"


def request_of(*parts: str | int | None) -> str:
    """Return what was asked for, in one line; different parts give different lines."""
    return json.dumps(parts)

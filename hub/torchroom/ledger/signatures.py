"""Whether a message comes from who knows the secret, and is not an old one again.

The header is `t=<unix seconds>,v1=<hex>`, where hex is HMAC-SHA256 of `<t>.<body>`.
While a secret is being changed the sender may sign with both, old and new:
`t=..,v1=<hex>,v1=<hex>`.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence

from torchroom.ledger.errors import BadSignature

TOLERANCE_S = 300
"""How far the sender's clock may differ, either way."""
_HEADER = re.compile(r"t=(0|[1-9][0-9]{0,11})((?:,v1=[0-9a-f]{64}){1,2})", re.ASCII)
_V1 = ",v1="


def sign(body: bytes, secrets: Sequence[str], at_s: int) -> str:
    """Return the header that `check` accepts for this body.

    Args:
        body: What is sent, byte for byte.
        secrets: One, or the old and the new one.
        at_s: Now, in whole seconds since the epoch.
    """
    return f"t={at_s}" + "".join(_V1 + _hmac(body, s, at_s) for s in secrets)


def check(body: bytes, header: str, secret: str, now_s: int) -> None:
    """Return only if the body was signed with this secret within TOLERANCE_S of now.

    Raises:
        BadSignature: It was not. Only who knows the secret learns that the time is why.
    """
    found = _HEADER.fullmatch(header)
    if not found or not secret:
        raise BadSignature(
            "The signature is missing or cannot be read. Send it as "
            "t=<unix seconds>,v1=<HMAC-SHA256 in lower case hex>."
        )
    at_s = int(found[1])
    expected = _hmac(body, secret, at_s)
    given = found[2].split(_V1)[1:]
    if not any(hmac.compare_digest(expected, each) for each in given):
        raise BadSignature(
            "The signature does not fit. Sign `<t>.<body>` byte for byte as it is "
            "sent, with the secret of this site."
        )
    if abs(now_s - at_s) > TOLERANCE_S:
        raise BadSignature(
            f"The message was signed {abs(now_s - at_s)} s away from this site's "
            f"clock; at most {TOLERANCE_S} s are accepted. Sign it again with the "
            "present time, and check both clocks."
        )


def _hmac(body: bytes, secret: str, at_s: int) -> str:
    signed = b"%d." % at_s + body
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()

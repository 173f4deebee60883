"""Whether an id_token is the provider's, for this hub, and of now.

oauthenticator does not look at the id_token at all when it asks the userinfo endpoint,
and never at its signature (oauth2.py, `token_to_user`). It is checked here whenever the
provider sends one. Pure but for the clock that PyJWT reads.
"""

import hmac
from collections.abc import Collection, Mapping
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

LEEWAY_S = 60
ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Signatures by a key that only the provider has; never one by the client secret."""


class TokenError(Exception):
    """The id_token proves nothing; says why, for the log."""


class UnknownKey(TokenError):
    """None of the keys given signed it: they may be old."""


def verified(
    token: Any,
    keys: Mapping[str, Any],
    *,
    issuer: str,
    client_id: str,
    algorithms: Collection[str],
    nonce: str | None = None,
) -> dict[str, Any]:
    """Return what an id_token says.

    Args:
        token: As it came.
        keys: The provider's keys, a JSON Web Key Set.
        issuer: Who must have made it.
        client_id: Whom it must be for.
        algorithms: How the provider signs; of these only those in `ALGORITHMS` count.
        nonce: What this login sent to the provider; None: it was no login.

    Raises:
        UnknownKey: None of the keys signed it.
        TokenError: It is forged, damaged, too old, or for somebody else.
    """
    if not isinstance(token, str):
        raise TokenError("it is no text")
    try:
        header = jwt.get_unverified_header(token)
        key = _key(keys, header.get("kid"), str(header.get("alg")))
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[name for name in algorithms if name in ALGORITHMS],
            audience=client_id,
            issuer=issuer,
            leeway=LEEWAY_S,
            options={"require": ["iss", "sub", "aud", "exp", "iat"]},
        )
    except jwt.InvalidSignatureError as error:
        # some providers have a new key by the old name, or never name any
        raise UnknownKey("none of the provider's keys signed it") from error
    except (
        *(jwt.PyJWTError, ValueError, TypeError, KeyError),
        *(RecursionError, UnsupportedAlgorithm),  # of what is nested; of odd curves
    ) as error:
        raise TokenError(str(error)) from error
    audience = claims["aud"]
    is_shared = isinstance(audience, list) and len(audience) > 1
    if (is_shared or "azp" in claims) and claims.get("azp") != client_id:
        raise TokenError("it was made for another client")
    said = claims.get("nonce")
    if nonce is not None and not (
        isinstance(said, str) and hmac.compare_digest(said.encode(), nonce.encode())
    ):
        raise TokenError("it is not of this login (nonce)")
    return claims


def _key(keys: Mapping[str, Any], kid: Any, algorithm: str) -> Any:
    if algorithm not in ALGORITHMS:
        raise TokenError(f"it is signed by {algorithm[:20]!r}")
    rows = keys.get("keys")
    usable = []
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict) or row.get("use", "sig") != "sig":
            continue
        if kid is None or row.get("kid") == kid:
            usable.append(row)
    if len(usable) != 1:
        raise UnknownKey(f"of the provider's keys {len(usable)} have the kid {kid!r}")
    # The key's own kind decides which algorithms it takes: PyJWT refuses others.
    return jwt.PyJWK.from_dict(usable[0], algorithm=algorithm).key

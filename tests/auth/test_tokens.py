"""id_tokens: the genuine one, and every way in which another one differs from it."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from torchroom.auth import tokens
from torchroom.auth.tokens import TokenError, UnknownKey

ISSUER, CLIENT = "https://id.school.edu", "torchroom"
KEY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


def public(key: Any, kid: str, **more: str) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm
    if isinstance(key, ec.EllipticCurvePrivateKey):
        kind = jwt.algorithms.ECAlgorithm  # type: ignore[assignment]
    row = json.loads(kind.to_jwk(key.public_key()))
    return {**row, "kid": kid, **more}


KEYS = {"keys": [public(KEY, "one", use="sig"), public(CURVE, "curve")]}


def token(
    key: Any = KEY, algorithm: str = "RS256", kid: str | None = "one", **changed: Any
) -> str:
    now = int(time.time())
    told = {"iss": ISSUER, "sub": "ada", "aud": CLIENT, "exp": now + 600, "iat": now}
    told |= {"nonce": "n"} | changed
    told = {name: value for name, value in told.items() if value is not None}
    return jwt.encode(told, key, algorithm, headers={"kid": kid} if kid else {})


def check(made: Any, **changed: Any) -> dict[str, Any]:
    asked = {
        "keys": KEYS,
        "issuer": ISSUER,
        "client_id": CLIENT,
        "algorithms": ("RS256", "ES256"),
        "nonce": "n",
    }
    return tokens.verified(made, **(asked | changed))


def test_the_genuine_one() -> None:
    assert check(token())["sub"] == "ada"
    assert check(token(CURVE, "ES256", "curve"))["sub"] == "ada"
    assert check(token(aud=[CLIENT]))["sub"] == "ada"
    assert check(token(aud=[CLIENT, "other"], azp=CLIENT))["sub"] == "ada"


def test_a_provider_with_one_key_need_not_name_it() -> None:
    assert check(token(kid=None), keys={"keys": [public(KEY, "one")]})["sub"] == "ada"


def test_at_a_refresh_there_is_no_nonce() -> None:
    assert check(token(nonce=None), nonce=None)["sub"] == "ada"


FORGED: dict[str, Callable[[], Any]] = {
    "another key": lambda: token(OTHER),
    "expired": lambda: token(exp=int(time.time()) - 3600),
    "without an end": lambda: token(exp=None),
    "from the future": lambda: token(iat=int(time.time()) + 3600),
    "not yet good": lambda: token(nbf=int(time.time()) + 3600),
    "without a beginning": lambda: token(iat=None),
    "another issuer": lambda: token(iss="https://evil.example"),
    "an issuer below": lambda: token(iss=f"{ISSUER}/evil"),
    "without an issuer": lambda: token(iss=None),
    "another client": lambda: token(aud="other"),
    "other clients": lambda: token(aud=["other", "another"]),
    "two clients": lambda: token(aud=[CLIENT, "other"]),
    "two clients, for another": lambda: token(aud=[CLIENT, "other"], azp="other"),
    "one client, for another": lambda: token(azp="other"),
    "without a client": lambda: token(aud=None),
    "without a subject": lambda: token(sub=None),
    "another nonce": lambda: token(nonce="other"),
    "without a nonce": lambda: token(nonce=None),
    "a nonce that is no text": lambda: token(nonce=["n"]),
    "unsigned": lambda: token("", "none"),
    "by the public key as a secret": lambda: token("s" * 64, "HS256"),
    "by the client secret": lambda: token(
        "the-client-secret-of-32-characters!", "HS256"
    ),
    "an algorithm not offered": lambda: token(KEY, "RS512"),
    "a curve's token by the RSA key's name": lambda: token(CURVE, "ES256", "one"),
    "rubbish": lambda: "rubbish",
    "dots": lambda: "..",
    "empty": lambda: "",
    "no text": lambda: None,
    "a list": lambda: [],
    "not ASCII": lambda: "ä.ö.ü",
}


@pytest.mark.parametrize("made", FORGED.values(), ids=FORGED)
def test_a_forged_one(made: Any) -> None:
    with pytest.raises(TokenError):
        check(made())


@pytest.mark.parametrize("position", range(0, 600, 7))
def test_one_changed_letter(position: int) -> None:
    made = token()
    if position >= len(made) - 1:
        return  # the last letter has bits that mean nothing
    letter = "A" if made[position] != "A" else "B"
    with pytest.raises(TokenError):
        check(made[:position] + letter + made[position + 1 :])


@pytest.mark.parametrize(
    "keys", [{}, {"keys": None}, {"keys": [None]}, {"keys": "x"}, {"keys": []}]
)
def test_keys_of_any_shape(keys: Any) -> None:
    with pytest.raises(UnknownKey):
        check(token(), keys=keys)


def test_a_key_for_encryption_signs_nothing() -> None:
    with pytest.raises(UnknownKey):
        check(token(), keys={"keys": [public(KEY, "one", use="enc")]})


@pytest.mark.parametrize("kid", ["one", None])
def test_a_new_key_by_an_old_name_is_one_to_ask_for(kid: str | None) -> None:
    """Some providers name their key the same for ever, or not at all."""
    with pytest.raises(UnknownKey):
        check(token(OTHER, kid=kid), keys={"keys": [public(KEY, "one")]})


def test_a_broken_key_proves_nothing() -> None:
    with pytest.raises(TokenError):
        check(token(), keys={"keys": [{"kid": "one", "kty": "RSA", "n": "x"}]})


def test_two_keys_of_one_name_prove_nothing() -> None:
    with pytest.raises(UnknownKey):
        check(token(), keys={"keys": [public(KEY, "one"), public(OTHER, "one")]})


@pytest.mark.parametrize(
    "made",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"alg":"RS256","kid":"one","x":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_a_nested_header_proves_nothing(made: str) -> None:
    head = base64.urlsafe_b64encode(made.encode()).decode().rstrip("=")
    with pytest.raises(TokenError):
        check(f"{head}.e30.eA")


def test_a_key_that_cannot_be_used_proves_nothing() -> None:
    """The provider's keys may be of kinds that this machine's library does not have."""

    class Odd(dict[str, Any]):
        def get(self, *_args: Any) -> Any:
            raise UnsupportedAlgorithm("a curve that nobody knows")

    with pytest.raises(TokenError, match="nobody knows"):
        check(token(), keys=Odd())

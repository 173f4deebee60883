"""What an OpenID provider says of itself, and whether the hub can use it. Pure."""

from dataclasses import dataclass
from typing import Any

from torchroom.auth.addresses import is_trustworthy
from torchroom.auth.tokens import ALGORITHMS

BASIC, POST = "client_secret_basic", "client_secret_post"


class DiscoveryError(Exception):
    """The provider's description cannot be had or used; says why, without its URL."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """A provider's description, as far as the hub uses it.

    Attributes:
        discovery_url: Where it came from.
        issuer: The provider's own name.
        authorize: Where browsers are sent.
        token: Where codes and refresh tokens become access tokens.
        userinfo: What an account is now; "": only the id_token says it.
        jwks: The keys that sign id_tokens.
        end_session: Where somebody logs out; "": nowhere.
        algorithms: How id_tokens are signed.
        scopes: What can be asked for, as far as it says.
        is_basic: Whether the secret goes into a header, not into the form.
        sends_issuer: Whether it says its name when it sends browsers back.
    """

    discovery_url: str
    issuer: str
    authorize: str
    token: str
    userinfo: str
    jwks: str
    end_session: str
    algorithms: tuple[str, ...]
    scopes: tuple[str, ...]
    is_basic: bool
    sends_issuer: bool


def understood(url: str, document: Any) -> Endpoints:
    """Return what a discovery document says.

    Raises:
        DiscoveryError: It is not one of the provider at this address, or the hub
            cannot work with it.
    """
    if not isinstance(document, dict):
        raise DiscoveryError("does not describe itself as OpenID providers do")
    issuer = document.get("issuer")
    expected = url.partition("/.well-known/")[0]
    if not isinstance(issuer, str) or issuer.rstrip("/") != expected.rstrip("/"):
        raise DiscoveryError(f"says that it is {str(issuer)[:200]!r}")
    challenges = document.get("code_challenge_methods_supported")
    if isinstance(challenges, list) and challenges and "S256" not in challenges:
        raise DiscoveryError("takes no PKCE with S256")
    told = _words(document, "id_token_signing_alg_values_supported", ("RS256",))
    algorithms = tuple(name for name in told if name in ALGORITHMS)
    if not algorithms:
        raise DiscoveryError("signs in no way that the hub can check")
    how = _words(document, "token_endpoint_auth_methods_supported", (BASIC,))
    return Endpoints(
        discovery_url=url,
        issuer=issuer,
        authorize=_address(document, "authorization_endpoint", needed=True),
        token=_address(document, "token_endpoint", needed=True),
        userinfo=_address(document, "userinfo_endpoint"),
        jwks=_address(document, "jwks_uri", needed=True),
        end_session=_address(document, "end_session_endpoint"),
        algorithms=algorithms,
        scopes=_words(document, "scopes_supported", ()),
        is_basic=POST not in how,
        sends_issuer=document.get("authorization_response_iss_parameter_supported")
        is True,
    )


def _address(document: dict[str, Any], name: str, *, needed: bool = False) -> str:
    found = document.get(name)
    if found is None and not needed:
        return ""
    if not isinstance(found, str) or not is_trustworthy(found):
        raise DiscoveryError(f"has no {name} that begins with https://")
    return found


def _words(
    document: dict[str, Any], name: str, default: tuple[str, ...]
) -> tuple[str, ...]:
    found = document.get(name)
    if not isinstance(found, list):
        return default
    return tuple(word for word in found if isinstance(word, str))

"""What each kind of identity provider needs: facts, and the traits made of them. Pure.

Five of the six are OpenID providers and are spoken to as such, through oauthenticator's
GenericOAuthenticator, for its own classes of them would not do what login promises:
AzureAdOAuthenticator takes people from an id_token whose signature it does not check,
and reads that same old token again at every refresh, so that groups never change;
GitLabOAuthenticator asks a user's API that has no groups; GoogleOAuthenticator needs a
service account to see any. GitHub is no OpenID provider: there it is GitHub's class,
which brings teams.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from torchroom.auth.endpoints import Endpoints
from torchroom.auth.settings import WELL_KNOWN, LoginSettings

GITHUB = "https://github.com"
GITLAB = "https://gitlab.com"
GOOGLE = "https://accounts.google.com"
MICROSOFT = "https://login.microsoftonline.com"
CILOGON = "https://cilogon.org"


@dataclass(frozen=True, slots=True)
class Preset:
    """What there is to know of a provider before it is asked.

    Attributes:
        title: What people call it.
        scopes: What is asked for.
        username: The claim with somebody's name.
        groups: The claim with somebody's groups; "": it sends none.
        subject: The claim that never changes.
        discovery_url: Where it describes itself; "": it is no OpenID provider.
        asks: Further parameters for the page where people log in.
        required: Claims that must have one of these values.
        has_userinfo: Whether its userinfo endpoint says what the id_token does.
        another: What makes it ask for another account than the one in use.
        trusts_email: Whether an address is the account's own though the provider sends
            no `email_verified`. Google and GitLab send it. Microsoft does not, and
            whoever may edit an account can write any address there.
    """

    title: str
    scopes: tuple[str, ...]
    username: str
    groups: str = "groups"
    subject: str = "sub"
    discovery_url: str = ""
    asks: dict[str, str] = field(default_factory=dict)
    required: dict[str, list[str]] = field(default_factory=dict)
    has_userinfo: bool = True
    another: str = "login"
    trusts_email: bool = False


def preset(settings: LoginSettings) -> Preset:
    """Return what is known of a provider."""
    match settings.provider:
        case "github":
            return Preset(
                title="GitHub",
                scopes=("read:user", "read:org"),
                username="login",
                groups="teams",
                subject="id",
                another="select_account",
            )
        case "gitlab":
            return Preset(
                title="GitLab",
                scopes=("openid", "profile", "email"),
                username="preferred_username",
                discovery_url=(settings.url or GITLAB) + WELL_KNOWN,
            )
        case "google":
            domain = settings.domain
            return Preset(
                title="Google",
                scopes=("openid", "email", "profile"),
                username="email",
                groups="",
                discovery_url=GOOGLE + WELL_KNOWN,
                # only with this a refresh token comes, at somebody's first login
                asks={"access_type": "offline"} | ({"hd": domain} if domain else {}),
                required={"hd": [domain]} if domain else {},
                another="select_account",
            )
        case "microsoft":
            return Preset(
                title="Microsoft",
                scopes=("openid", "profile", "email", "offline_access"),
                username="preferred_username",
                discovery_url=f"{MICROSOFT}/{settings.tenant}/v2.0{WELL_KNOWN}",
                required={"tid": [settings.tenant]},
                has_userinfo=False,  # neither the directory nor groups are in it
                another="select_account",
            )
        case "cilogon":
            return Preset(
                title="CILogon",
                scopes=("openid", "email", "profile", "org.cilogon.userinfo"),
                username="email",
                groups="isMemberOf",
                discovery_url=CILOGON + WELL_KNOWN,
                asks={"selected_idp": ",".join(settings.idps)},
                required={"idp": list(settings.idps)},
                # the institution's own directory says it, and no other's is taken
                trusts_email=True,
            )
        case _:
            return Preset(
                title="the school's login",
                scopes=("openid", "profile", "email"),
                username="preferred_username",
                discovery_url=settings.discovery_url,
            )


def traits(
    settings: LoginSettings, known: Preset, found: Endpoints | None, *, hub_url: str
) -> dict[str, Any]:
    """Return the configuration of the authenticator's class.

    Args:
        settings: From the environment.
        known: The provider's preset.
        found: What it says of itself; None if it is no OpenID provider.
        hub_url: Where browsers find the hub; ends with a slash.
    """
    common: dict[str, Any] = {
        "client_id": settings.client_id,
        "client_secret": settings.client_secret,
        "oauth_callback_url": f"{hub_url}oauth_callback",
        "login_service": known.title,
        "scope": list(dict.fromkeys((*known.scopes, *settings.scopes))),
        "extra_authorize_params": dict(known.asks),
        "enable_pkce": True,
        "auto_login": True,
        # Nobody is let in but by courses.toml; see TorchroomAuthenticator.
        "allow_all": False,
        "allow_existing_users": False,
        "manage_groups": True,
        "enable_auth_state": True,
        "auth_refresh_age": settings.recheck_s,
        "refresh_pre_spawn": True,
        # A refusal at refresh counts for API tokens, too.
        "auth_refresh_strict": True,
        "name_claim": settings.username_claim or known.username,
        "groups_claim": settings.groups_claim or known.groups,
        "subject_claim": known.subject,
        "required_claims": dict(known.required),
        "other_account_prompt": known.another,
        "offline_s": settings.offline_s,
        "trusts_email": known.trusts_email or settings.trusts_email,
    }
    if found is None:
        return common | _github(settings)
    if settings.provider == "oidc" and "groups" in found.scopes:
        common["scope"] = list(dict.fromkeys((*common["scope"], "groups")))
    return common | {
        "issuer": found.issuer,
        "jwks_url": found.jwks,
        "algorithms": list(found.algorithms),
        "sends_issuer": found.sends_issuer,
        "authorize_url": found.authorize,
        "token_url": found.token,
        "userdata_url": found.userinfo if known.has_userinfo else "",
        "basic_auth": found.is_basic,
        "logout_redirect_url": _logout(settings, found),
    }


def _github(settings: LoginSettings) -> dict[str, Any]:
    url = settings.url or GITHUB
    scheme, _, host = url.partition("://")
    is_cloud = host == "github.com" or host.endswith(".ghe.com")
    return {
        "issuer": f"{url}/login/oauth",
        "github_url": url,
        "populate_teams_in_auth_state": True,
        # said here, for else the class takes them from variables of its own
        "github_api": f"{scheme}://api.{host}" if is_cloud else f"{url}/api/v3",
        "authorize_url": f"{url}/login/oauth/authorize",
        "token_url": f"{url}/login/oauth/access_token",
    }


def _logout(settings: LoginSettings, found: Endpoints) -> str:
    if not found.end_session:
        return ""
    between = "&" if "?" in found.end_session else "?"
    return found.end_session + between + urlencode({"client_id": settings.client_id})

"""Every preset, as a configured instance of the class that JupyterHub will use."""

from pathlib import Path
from typing import Any

import pytest
from jupyterhub.app import JupyterHub
from torchroom.auth import providers
from torchroom.auth.authenticator import GithubAuthenticator, OidcAuthenticator
from torchroom.auth.endpoints import Endpoints
from torchroom.auth.settings import LoginSettings
from traitlets.config import Config

HUB = "https://hub.school.edu/hub/"
TENANT = "01234567-89ab-cdef-0123-456789abcdef"
SCHOOL = "https://idp.school.edu/shibboleth"
FOUND = Endpoints(
    discovery_url="https://id.school.edu/.well-known/openid-configuration",
    issuer="https://id.school.edu",
    authorize="https://id.school.edu/auth",
    token="https://id.school.edu/token",
    userinfo="https://id.school.edu/me",
    jwks="https://id.school.edu/keys",
    end_session="https://id.school.edu/logout",
    algorithms=("RS256",),
    scopes=("openid", "groups"),
    is_basic=False,
    sends_issuer=True,
)
MORE: dict[str, dict[str, Any]] = {
    "oidc": {"discovery_url": FOUND.discovery_url},
    "github": {},
    "gitlab": {},
    "google": {"domain": "school.edu"},
    "microsoft": {"tenant": TENANT},
    "cilogon": {"idps": (SCHOOL,)},
}


def made(provider: str, folder: Path, **changed: Any) -> Any:
    """The authenticator of a hub with this provider."""
    settings = LoginSettings(
        provider=provider,
        client_id="torchroom",
        client_secret="secret",
        **(MORE[provider] | changed),
    )
    known = providers.preset(settings)
    found = FOUND if known.discovery_url else None
    traits = providers.traits(settings, known, found, hub_url=HUB)
    kind = GithubAuthenticator if found is None else OidcAuthenticator
    assert set(traits) <= set(kind.class_trait_names(config=True))
    built = kind(config=Config({kind.__name__: traits}), data_dir=str(folder))
    for name, value in traits.items():
        assert getattr(built, name) == value, name
    return built


@pytest.mark.parametrize("provider", MORE)
def test_what_all_have_in_common(provider: str, tmp_path: Path) -> None:
    built = made(provider, tmp_path)
    assert built.enable_pkce is True
    assert built.manage_groups is True
    assert built.enable_auth_state is True
    assert built.refresh_pre_spawn is True
    assert built.auth_refresh_strict is True
    assert built.auth_refresh_age == 300
    assert (built.allow_all, built.allow_existing_users) == (False, False)
    assert not built.allowed_users
    assert not built.admin_users
    assert built.oauth_callback_url == f"{HUB}oauth_callback"
    assert built.auto_login is True
    assert built.name_claim
    for name in ("authorize_url", "token_url"):
        assert getattr(built, name).startswith("https://")
    handlers = dict(row[:2] for row in built.get_handlers(JupyterHub()))
    assert {"/oauth_login", "/oauth_callback", "/logout"} <= handlers.keys()


@pytest.mark.parametrize("provider", [p for p in MORE if p != "github"])
def test_openid_providers_are_asked_for_a_signed_token(
    provider: str, tmp_path: Path
) -> None:
    built = made(provider, tmp_path)
    assert built.scope[0] == "openid"
    assert built.jwks_url == FOUND.jwks
    assert built.issuer == FOUND.issuer
    assert built.algorithms == ["RS256"]
    assert built.sends_issuer is True
    assert built.logout_redirect_url.endswith("/logout?client_id=torchroom")


def test_oidc_asks_for_groups_where_there_is_a_scope(tmp_path: Path) -> None:
    assert "groups" in made("oidc", tmp_path).scope
    more = made("oidc", tmp_path, scopes=("offline_access",)).scope
    assert more == ["openid", "profile", "email", "offline_access", "groups"]


def test_claims_of_ones_own(tmp_path: Path) -> None:
    built = made("oidc", tmp_path, username_claim="uid", groups_claim="a.b")
    assert (built.name_claim, built.groups_claim) == ("uid", "a.b")


def test_github_brings_teams(tmp_path: Path) -> None:
    built = made("github", tmp_path)
    assert built.populate_teams_in_auth_state is True
    assert "read:org" in built.scope
    assert built.subject_claim == "id"
    assert built.userdata_url == "https://api.github.com/user"
    assert built.jwks_url == ""


def test_github_has_the_name_that_it_says_when_it_sends_browsers_back(
    tmp_path: Path,
) -> None:
    """Since April 2026; with another one nobody could log in."""
    assert made("github", tmp_path).issuer == "https://github.com/login/oauth"
    own = made("github", tmp_path, url="https://git.school.edu")
    assert own.issuer == "https://git.school.edu/login/oauth"


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("https://git.school.edu", "https://git.school.edu/api/v3"),
        ("https://school.ghe.com", "https://api.school.ghe.com"),
        ("https://github.com", "https://api.github.com"),
    ],
)
def test_a_github_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, api: str
) -> None:
    monkeypatch.setenv("GITHUB_URL", "https://evil.example")
    built = made("github", tmp_path, url=url)
    assert built.userdata_url == f"{api}/user"
    assert built.authorize_url == f"{url}/login/oauth/authorize"


def test_a_gitlab_of_ones_own() -> None:
    settings = LoginSettings(provider="gitlab", url="https://git.school.edu")
    known = providers.preset(settings)
    assert known.discovery_url.startswith("https://git.school.edu/.well-known/")


def test_google_takes_the_schools_domain_only(tmp_path: Path) -> None:
    built = made("google", tmp_path)
    assert built.required_claims == {"hd": ["school.edu"]}
    assert built.extra_authorize_params["hd"] == "school.edu"
    assert built.groups_claim == ""
    assert made("google", tmp_path, domain="").required_claims == {}


def test_microsoft_takes_the_schools_directory_only(tmp_path: Path) -> None:
    built = made("microsoft", tmp_path)
    assert built.required_claims == {"tid": [TENANT]}
    assert "offline_access" in built.scope
    assert built.userdata_url == ""
    known = providers.preset(LoginSettings(provider="microsoft", tenant=TENANT))
    assert f"/{TENANT}/v2.0/.well-known/" in known.discovery_url


def test_cilogon_takes_the_schools_accounts_only(tmp_path: Path) -> None:
    built = made("cilogon", tmp_path)
    assert built.required_claims == {"idp": [SCHOOL]}
    assert built.extra_authorize_params == {"selected_idp": SCHOOL}
    assert "org.cilogon.userinfo" in built.scope


@pytest.mark.parametrize("provider", MORE)
def test_whose_addresses_are_trusted_unseen(provider: str, tmp_path: Path) -> None:
    """An institution's that CILogon names; all others must say that they verified."""
    assert made(provider, tmp_path).trusts_email is (provider == "cilogon")
    assert made(provider, tmp_path, trusts_email=True).trusts_email is True

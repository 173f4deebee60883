"""Hubs that must not start, and say why in one sentence; and one that must."""

from collections.abc import Callable
from pathlib import Path

import pytest
from testbed.bare_hub import free_port
from testbed.engine import wait_until
from testbed.identity import IdentityProvider, identity_provider
from testbed.login_hub import STUDENTS, LoginHub, Visitor, login_hub

ENDS_WITHIN_S = 60


def why_not(folder: Path, **kwargs: object) -> str:
    """What a hub says that does not start."""
    hub = LoginHub(folder, **kwargs)  # type: ignore[arg-type]
    process = hub.launch()
    try:
        wait_until(
            lambda: process.poll() is not None,
            what="the hub ends",
            within_s=ENDS_WITHIN_S,
        )
    finally:
        hub.end()
    assert process.returncode != 0
    return hub.log()


def test_with_a_provider_set_nobody_logs_in_by_password(tmp_path: Path) -> None:
    said = why_not(tmp_path, environment={"TORCHROOM_OAUTH_CLIENT_ID": "x"})
    assert "TORCHROOM_OAUTH_CLIENT_ID is set, so TORCHROOM_LOGIN must say" in said
    both = {"TORCHROOM_OAUTH_CLIENT_ID": "x", "TORCHROOM_LOGIN": "local"}
    said = why_not(tmp_path, environment=both)
    assert "nobody logs in with the hub's own passwords" in said


def test_the_local_login_is_for_this_machine_only(tmp_path: Path) -> None:
    published = {"TORCHROOM_PUBLIC_URL": "https://hub.school.edu"}
    said = why_not(tmp_path, environment=published)
    assert "the hub's own passwords are for this machine only" in said


@pytest.mark.parametrize("courses", ["# nobody yet\n", "admins = []\n"])
def test_when_nobody_could_log_in_the_hub_says_what_to_write(
    provider: IdentityProvider, tmp_path: Path, courses: str
) -> None:
    environment = provider.environment(tmp_path)
    said = why_not(tmp_path, environment=environment, courses=courses)
    assert "names nobody, so nobody could log in" in said
    assert "[course.ml101]" in said


def test_a_provider_that_never_answered(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    nobody = f"http://127.0.0.1:{free_port()}/.well-known/openid-configuration"
    environment = {
        "TORCHROOM_LOGIN": "oidc",
        "TORCHROOM_OAUTH_DISCOVERY_URL": nobody,
        "TORCHROOM_OAUTH_CLIENT_ID": "x",
        "TORCHROOM_OAUTH_CLIENT_SECRET_FILE": str(tmp_path / "secret"),
    }
    said = why_not(tmp_path, environment=environment)
    assert f"The identity provider at {nobody} does not answer" in said


def test_a_hub_starts_while_its_provider_is_down_and_people_stay_logged_in(
    tmp_path: Path,
) -> None:
    port = free_port()
    with identity_provider(tmp_path, f"http://127.0.0.1:{port}") as provider:
        name = provider.account("ada", STUDENTS)
        visitor = Visitor()
        with login_hub(tmp_path, provider, port=port) as hub:
            assert visitor.log_in(hub, name).ok
            token = hub.token_of(name)
        provider.end()
        with login_hub(tmp_path, provider, port=port) as hub:
            assert visitor.home(hub).status_code == 200
            assert hub.ask("user", token).ok
            stranger = Visitor().open(f"{hub.url}/hub/home", allow_redirects=False)
            assert stranger.status_code == 302
            provider.begin()
            provider.account(name, STUDENTS)
            assert Visitor().log_in(hub, name).ok


def test_secrets_are_the_hubs_alone(hub: LoginHub, person: Callable[..., str]) -> None:
    assert Visitor().log_in(hub, person(STUDENTS)).ok
    for name in ("auth-state-key", "accounts.sqlite"):
        assert (hub.folder / name).stat().st_mode & 0o077 == 0
    assert not (hub.folder / "local-login.json").exists()

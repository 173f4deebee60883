"""Which variables make a login, and the one sentence of each that does not."""

from pathlib import Path

import pytest
from torchroom.auth import settings
from torchroom.settings import SettingError

COURSES = 'admins = ["ada"]\n'


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    """Variables of a hub that logs in at an OpenID provider."""
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "courses.toml").write_text(COURSES)
    return {
        "TORCHROOM_LOGIN": "oidc",
        "TORCHROOM_COURSES": str(tmp_path / "courses.toml"),
        "TORCHROOM_OAUTH_CLIENT_ID": "torchroom",
        "TORCHROOM_OAUTH_CLIENT_SECRET_FILE": str(tmp_path / "secret"),
        "TORCHROOM_OAUTH_DISCOVERY_URL": (
            "https://id.school.edu/realms/all/.well-known/openid-configuration"
        ),
    }


def sentence(env: dict[str, str]) -> str:
    with pytest.raises(SettingError) as caught:
        settings.read(env)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert "s3cret" not in text
    return text


def test_nothing_set_is_the_local_login() -> None:
    assert settings.read({}) == settings.LoginSettings()
    assert settings.read({}).is_local


def test_empty_variables_are_not_set() -> None:
    """Compose hands on all it knows, set or not."""
    names = ("LOGIN", "COURSES", "OAUTH_CLIENT_ID", "OAUTH_URL", "OAUTH_TENANT")
    assert settings.read({f"TORCHROOM_{name}": "" for name in names}).is_local


def test_an_empty_mount_is_no_courses_file() -> None:
    assert settings.read({"TORCHROOM_COURSES": "/dev/null"}).courses_file is None


def test_all_of_an_openid_provider(good: dict[str, str]) -> None:
    read = settings.read(
        good
        | {
            "TORCHROOM_OAUTH_USERNAME_CLAIM": "uid",
            "TORCHROOM_OAUTH_GROUPS_CLAIM": "realm_access.roles",
            "TORCHROOM_OAUTH_SCOPES": "groups offline_access",
            "TORCHROOM_OAUTH_RECHECK_MINUTES": "1",
            "TORCHROOM_OAUTH_OFFLINE_HOURS": "1",
            "TORCHROOM_OAUTH_TRUST_EMAIL": "1",
        }
    )
    assert (read.provider, read.client_id, read.client_secret) == (
        "oidc",
        "torchroom",
        "s3cret",
    )
    assert read.scopes == ("groups", "offline_access")
    assert (read.recheck_s, read.offline_s) == (60, 3600)
    assert "s3cret" not in repr(read)
    assert read.trusts_email
    assert not settings.read(good).trusts_email


@pytest.mark.parametrize("login", [None, "", "local"])
@pytest.mark.parametrize("name", ["CLIENT_ID", "CLIENT_SECRET_FILE", "URL", "TYPO"])
def test_the_local_login_ends_as_soon_as_anything_of_oauth_is_set(
    login: str | None, name: str
) -> None:
    env = {f"TORCHROOM_OAUTH_{name}": "x"}
    if login is not None:
        env["TORCHROOM_LOGIN"] = login
    assert f"TORCHROOM_OAUTH_{name} is set" in sentence(env)


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "unknown provider": ({"LOGIN": "facebook"}, "must be local or oidc or github"),
    "half a trust": ({"OAUTH_TRUST_EMAIL": "yes"}, "TRUST_EMAIL is 'yes'"),
    "no client": ({"OAUTH_CLIENT_ID": ""}, "CLIENT_ID is not set"),
    "two-line client": ({"OAUTH_CLIENT_ID": "a\nb"}, "must be one line"),
    "no secret": ({"OAUTH_CLIENT_SECRET_FILE": ""}, "CLIENT_SECRET_FILE is not set"),
    "no such secret": (
        {"OAUTH_CLIENT_SECRET_FILE": "/nowhere"},
        "cannot be read: No such file",
    ),
    "secret is a folder": ({"OAUTH_CLIENT_SECRET_FILE": "/"}, "cannot be read"),
    "empty secret": ({"OAUTH_CLIENT_SECRET_FILE": "/dev/null"}, "has not one line"),
    "no discovery": ({"OAUTH_DISCOVERY_URL": ""}, "DISCOVERY_URL is not set"),
    "http discovery": (
        {
            "OAUTH_DISCOVERY_URL": "http://id.school.edu/.well-known/openid-configuration"
        },
        "begins with https://",
    ),
    "no address": ({"OAUTH_DISCOVERY_URL": "id.school.edu"}, "begins with https://"),
    "a password in it": (
        {"OAUTH_DISCOVERY_URL": "https://a:b@id.school.edu/"},
        "begins with https://",
    ),
    "a broken address": ({"OAUTH_DISCOVERY_URL": "https://[::"}, "begins with https"),
    "a broken port": ({"OAUTH_DISCOVERY_URL": "https://a:99999/"}, "begins with https"),
    "not the document": (
        {"OAUTH_DISCOVERY_URL": "https://id.school.edu/"},
        "must end with /.well-known/openid-configuration",
    ),
    "with a query": (
        {"OAUTH_DISCOVERY_URL": "https://id.edu/?x=/.well-known/openid-configuration"},
        "must have no ?",
    ),
    "another's variable": ({"OAUTH_TENANT": "x"}, "is for TORCHROOM_LOGIN=microsoft"),
    "a typo": ({"OAUTH_CLIENTID": "x"}, "TORCHROOM_OAUTH_CLIENTID is not known"),
    "no courses": ({"COURSES": ""}, "TORCHROOM_COURSES is not set"),
    "no such courses": ({"COURSES": "/nowhere"}, "there is no such file"),
    "no number": ({"OAUTH_RECHECK_MINUTES": "soon"}, "from 1 to 60"),
    "too long": ({"OAUTH_OFFLINE_HOURS": "169"}, "from 1 to 168"),
}


@pytest.mark.parametrize(("changed", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_one_sentence(
    good: dict[str, str], changed: dict[str, str], words: str
) -> None:
    env = good | {f"TORCHROOM_{name}": value for name, value in changed.items()}
    assert words in sentence(env)


@pytest.mark.parametrize("tenant", ["", "common", "organizations", "school.edu"])
def test_microsoft_needs_the_directorys_id(good: dict[str, str], tenant: str) -> None:
    env = good | {"TORCHROOM_LOGIN": "microsoft", "TORCHROOM_OAUTH_TENANT": tenant}
    del env["TORCHROOM_OAUTH_DISCOVERY_URL"]
    assert "TORCHROOM_OAUTH_TENANT" in sentence(env)


@pytest.mark.parametrize(
    "domain", ["a.edu,b.edu", "a.edu b.edu", "@school.edu", "https://school.edu", "edu"]
)
def test_google_takes_one_domain(good: dict[str, str], domain: str) -> None:
    """With anything else no account would ever be of it."""
    env = good | {"TORCHROOM_LOGIN": "google", "TORCHROOM_OAUTH_DOMAIN": "School.edu"}
    del env["TORCHROOM_OAUTH_DISCOVERY_URL"]
    assert settings.read(env).domain == "school.edu"
    assert "must be one domain" in sentence(env | {"TORCHROOM_OAUTH_DOMAIN": domain})


def test_cilogon_needs_the_school(good: dict[str, str]) -> None:
    env = good | {"TORCHROOM_LOGIN": "cilogon"}
    del env["TORCHROOM_OAUTH_DISCOVERY_URL"]
    assert "TORCHROOM_OAUTH_IDP is not set" in sentence(env)


def test_githubs_groups_are_its_teams(good: dict[str, str]) -> None:
    """A claim for them would be set in vain."""
    env = good | {"TORCHROOM_LOGIN": "github", "TORCHROOM_OAUTH_GROUPS_CLAIM": "roles"}
    del env["TORCHROOM_OAUTH_DISCOVERY_URL"]
    assert "GROUPS_CLAIM is for TORCHROOM_LOGIN=oidc or gitlab" in sentence(env)
    del env["TORCHROOM_OAUTH_GROUPS_CLAIM"]
    assert settings.read(env).provider == "github"


@pytest.mark.parametrize("name", ["gitlab", "github"])
def test_a_server_of_ones_own(good: dict[str, str], name: str) -> None:
    env = good | {"TORCHROOM_LOGIN": name, "TORCHROOM_OAUTH_URL": "https://git.edu/"}
    del env["TORCHROOM_OAUTH_DISCOVERY_URL"]
    assert settings.read(env).url == "https://git.edu"
    env["TORCHROOM_OAUTH_URL"] = "http://git.edu"
    assert "begins with https" in sentence(env)

"""The local login on a real hub: as it comes, through its proxy."""

import json
import re
from collections.abc import Iterator

import pytest
import requests
from testbed.login_hub import LoginHub, login_hub


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginHub]:
    """A hub without any settings of the login but courses.toml."""
    with login_hub(tmp_path_factory.mktemp("local")) as running:
        yield running
        assert "Traceback" not in running.log()


def passwords(hub: LoginHub) -> dict[str, str]:
    return dict(json.loads((hub.folder / "local-login.json").read_text()))


def log_in(
    hub: LoginHub, name: str, password: str, host: str = ""
) -> tuple[requests.Session, requests.Response]:
    """Fill the hub's own form in."""
    session = requests.Session()
    headers = {"Host": host} if host else {}
    url = f"{hub.url}/hub/login"
    form = session.get(url, timeout=30, headers=headers)
    token = re.search(r'name="_xsrf" value="([^"]+)"', form.text)
    assert token
    data = {"username": name, "password": password, "_xsrf": token[1]}
    page = session.post(
        url, data=data, timeout=30, headers=headers, allow_redirects=False
    )
    return session, page


def test_everybody_gets_in_and_names_in_the_file_count(local: LoginHub) -> None:
    session, page = log_in(local, "nora", passwords(local)["user_password"])
    assert page.status_code == 302
    assert session.get(f"{local.url}/hub/home", timeout=30).ok
    assert local.user("nora")["groups"] == ["ml101"]
    assert log_in(local, "guest", passwords(local)["user_password"])[1].is_redirect
    assert local.user("guest")["groups"] == []


def test_admins_need_their_password(local: LoginHub) -> None:
    known = passwords(local)
    for name in ("admin", "root"):
        _, page = log_in(local, name, known["user_password"])
        assert page.status_code == 403
        _, page = log_in(local, name, known["admin_password"])
        assert page.is_redirect
        assert local.user(name)["admin"] is True
    assert local.user("root")["groups"] == ["hub:admins"]


@pytest.mark.parametrize("host", ["hub.school.edu", "192.168.7.7:8000"])
def test_by_another_name_nobody_gets_in(local: LoginHub, host: str) -> None:
    """As behind a published port, or with a page elsewhere whose name leads here."""
    session, page = log_in(local, "eve", passwords(local)["user_password"], host)
    assert page.status_code == 403
    assert "on this machine only" in page.text, page.text
    assert session.get(f"{local.url}/hub/home", timeout=30).url.startswith(
        f"{local.url}/hub/login"
    )


def test_the_file_with_the_passwords_is_the_hubs_alone(local: LoginHub) -> None:
    assert (local.folder / "local-login.json").stat().st_mode & 0o077 == 0


def test_who_becomes_an_admin_shares_no_session_with_who_came_before(
    local: LoginHub,
) -> None:
    """Everybody had the password of the one before."""
    known = passwords(local)
    earlier, page = log_in(local, "hedy", known["user_password"])
    assert page.is_redirect
    token = local.token_of("hedy")
    before = local.courses_file.read_text()
    local.courses_file.write_text(before.replace('["root"]', '["root", "hedy"]'))
    try:
        _, page = log_in(local, "hedy", known["user_password"])
        assert page.status_code == 403
        later, page = log_in(local, "hedy", known["admin_password"])
        assert page.is_redirect
        assert later.get(f"{local.url}/hub/admin", timeout=30).ok
        home = earlier.get(f"{local.url}/hub/home", timeout=30, allow_redirects=False)
        assert home.is_redirect
        assert local.ask("user", token).status_code == 403
    finally:
        local.courses_file.write_text(before)

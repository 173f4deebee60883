"""The login by password: this machine only, and not for those who run things."""

from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from auth import people
from gpuspawner.pacing import Pace
from torchroom.auth import rights
from torchroom.auth.local import LoopbackAuthenticator
from torchroom.auth.pace import LoginPace
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import HTTPError

USER, ADMIN = "for-everybody", "for-admins-only-and-much-longer-than-that"
INSTRUCTOR = {"admin": False, "groups": ["ml101", "instructors-of-ml101"]}
COURSES = """
admins = ["root"]
[course.ml101]
students = ["ada"]
instructors = ["ivy"]
"""


@pytest.fixture
def login(tmp_path: Path) -> LoopbackAuthenticator:
    path = tmp_path / "courses.toml"
    path.write_text(COURSES)
    made = LoopbackAuthenticator(
        user_password=USER,
        admin_password=ADMIN,
        admin_users={"admin"},
        courses_file=str(path),
        manage_groups=True,
        allow_all=True,
    )
    made.pace = LoginPace(wrong_of_name=Pace(3, 600))
    return made


def request(host: str = "127.0.0.1:8000", knows: Any = None) -> Any:
    """A login at a hub that has a user already, or nobody of this name."""
    made = HTTPServerRequest(
        start_line=RequestStartLine("POST", "/hub/login", "HTTP/1.1"),
        headers=HTTPHeaders({"Host": host}),
    )
    db = knows.db if knows else people.database()
    return SimpleNamespace(request=made, find_user=lambda _name: knows, db=db)


async def tries(
    login: Any, name: Any, password: Any, host: str = "localhost", knows: Any = None
) -> Any:
    data = {"username": name, "password": password}
    found = await login.authenticate(request(host, knows), data)
    return found and (found["admin"], found["groups"])


async def test_who_is_what(login: Any) -> None:
    assert await tries(login, "ada", USER) == (False, ["ml101"])
    assert await tries(login, "anybody", USER) == (False, [])
    assert await tries(login, "Admin", ADMIN) == (True, [])
    assert await tries(login, "root", ADMIN) == (True, ["hub:admins"])
    assert await tries(login, "ivy", ADMIN) == (
        False,
        ["ml101", "instructors-of-ml101"],
    )


@pytest.mark.parametrize("name", ["admin", "root", "ROOT", " root ", "ivy"])
async def test_everybodys_password_makes_nobody_powerful(login: Any, name: str) -> None:
    assert await tries(login, name, USER) is None


@pytest.mark.parametrize("password", ["", "wrong", "ü" * 20, "\udcff", USER + " "])
async def test_wrong_passwords(login: Any, password: str) -> None:
    assert await tries(login, "ada", password) is None


@pytest.mark.parametrize("name", ["", " ", "a\x00b", "a\nb", "x" * 256])
async def test_names_that_are_none(login: Any, name: str) -> None:
    assert await tries(login, name, USER) is None


@pytest.mark.parametrize("data", [{}, {"username": "a"}, {"password": USER}])
async def test_a_missing_field_is_a_sentence(login: Any, data: Any) -> None:
    with pytest.raises(HTTPError, match="needs one username"):
        await login.authenticate(request(), data)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "[::1]:8000", "a.localhost"],
)
async def test_this_machine(login: Any, host: str) -> None:
    assert await tries(login, "ada", USER, host)


@pytest.mark.parametrize(
    "host",
    [
        *("hub.school.edu", "192.168.1.7:8000", "127.0.0.1.evil.example", "127.1"),
        *("evil.example:8000", "0.0.0.0:8000", "localhost.evil.example", "[::]"),
    ],
)
async def test_any_other_name_is_refused(login: Any, host: str) -> None:
    """Also of a page elsewhere whose name leads to this machine (DNS rebinding)."""
    with pytest.raises(HTTPError, match="on this machine only"):
        await tries(login, "ada", USER, host)


async def test_a_program_in_a_server_is_refused_whatever_it_sends(login: Any) -> None:
    """It reaches the hub past the proxy, and can send any Host."""
    login.pace = LoginPace(servers=IPv4Network("10.117.0.0/20"), proxy="10.117.0.3")
    asked = request()
    for peer, is_refused in (("10.117.8.7", True), ("10.117.0.3", False)):
        context = SimpleNamespace(address=(peer, 1))
        asked.request.connection = SimpleNamespace(context=context)
        data = {"username": "ada", "password": USER}
        if is_refused:
            with pytest.raises(HTTPError, match="on this machine only"):
                await login.authenticate(asked, data)
        else:
            assert await login.authenticate(asked, data)


async def test_guessing_comes_to_an_end(login: Any) -> None:
    for _ in range(3):
        assert await tries(login, "admin", "guess") is None
    with pytest.raises(HTTPError) as caught:
        await tries(login, "admin", ADMIN)
    assert caught.value.status_code == 429
    assert await tries(login, "ada", USER)


async def test_a_changed_file_counts_at_refresh(login: Any, tmp_path: Path) -> None:
    ada = people.user(people.database(), "ada")
    assert (await login.refresh_user(ada))["groups"] == ["ml101"]
    (tmp_path / "courses.toml").write_text('admins = ["root"]')
    assert (await login.refresh_user(ada))["groups"] == []


@pytest.mark.parametrize(
    "row", ["admins = ['ada']", "[course.a]\ninstructors = ['ada']"]
)
async def test_power_takes_a_login_and_ends_those_before_it(
    login: Any, tmp_path: Path, row: str
) -> None:
    """They may be anybody's: everybody knows the password of before."""
    ada = people.user(people.database(), "ada")
    assert await tries(login, "ada", USER, knows=ada)
    ada.new_api_token()
    cookie = ada.cookie_id
    (tmp_path / "courses.toml").write_text(row)
    assert await login.refresh_user(ada) is False
    assert await tries(login, "ada", USER, knows=ada) is None
    assert (ada.cookie_id, len(ada.api_tokens)) == (cookie, 1)
    assert await tries(login, "ada", ADMIN, knows=ada)
    assert ada.cookie_id != cookie
    assert not ada.api_tokens


async def test_who_has_power_keeps_their_sessions(login: Any, tmp_path: Path) -> None:
    ivy = people.user(people.database(), "ivy")
    rights.set_rights(ivy, INSTRUCTOR)
    cookie = ivy.cookie_id
    (tmp_path / "courses.toml").write_text(
        COURSES + "[course.b]\ninstructors = ['ivy']"
    )
    refreshed = await login.refresh_user(ivy)
    assert refreshed["groups"][-2:] == ["instructors-of-b", "instructors-of-ml101"]
    assert await tries(login, "ivy", ADMIN, knows=ivy)
    assert ivy.cookie_id == cookie

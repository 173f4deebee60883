"""GitHub's class against a stand-in that answers as GitHub's documentation says.

GitHub itself is never asked. It is no OpenID provider: no id_token, errors with status
200, teams in pages.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from testbed.login_hub import COURSES
from torchroom.auth import providers
from torchroom.auth.answers import (
    KEPT,
    Expired,
    Kept,
    Refused,
    Unreachable,
)
from torchroom.auth.authenticator import GithubAuthenticator
from torchroom.auth.claims import ClaimError
from torchroom.auth.refusals import Refusal
from torchroom.auth.settings import LoginSettings
from traitlets.config import Config

TEAMS = "/api/v3/user/teams"


def team(org: str, slug: str) -> dict[str, Any]:
    return {"id": 1, "slug": slug, "organization": {"login": org}}


class Github:
    """What it answers: path -> status and JSON."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}
        self.rows: dict[str, tuple[int, Any]] = {
            "/login/oauth/access_token": (
                200,
                {"access_token": "t", "token_type": "bearer", "scope": "read:org"},
            ),
            "/api/v3/user": (200, {"id": 7, "login": "Ada-L", "email": None}),
            TEAMS: (200, [team("school", "staff")]),
        }


@pytest.fixture
def github() -> Iterator[Github]:
    """The stand-in, running."""
    told = Github()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            told.asked.append(self.path)
            status, body = told.rows.get(path, (404, {}))
            self.send_response(status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            if path == TEAMS and isinstance(body, list) and "page=2" not in query:
                rest = f"http://127.0.0.1:{told.port}{TEAMS}?page=2"
                self.send_header("Link", f'<{rest}>; rel="next"')
                body = [team("school", "ml101")] if status == 200 else body
            self.end_headers()
            self.wfile.write(
                body if isinstance(body, bytes) else json.dumps(body).encode()
            )

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield told
    server.shutdown()
    server.server_close()


@pytest.fixture
def login(github: Github, tmp_path: Path) -> GithubAuthenticator:
    """The class as a hub has it."""
    (tmp_path / "courses.toml").write_text(
        COURSES.replace('"staff"', '"school:staff"').replace(
            '"ml101-students"', '"school:ml101"'
        )
    )
    settings = LoginSettings(
        provider="github",
        client_id="x",
        client_secret="y",
        url=f"http://127.0.0.1:{github.port}",
    )
    traits = providers.traits(
        settings, providers.preset(settings), None, hub_url="http://127.0.0.1:8000/hub/"
    )
    more = {"data_dir": str(tmp_path), "courses_file": str(tmp_path / "courses.toml")}
    return GithubAuthenticator(config=Config({"GithubAuthenticator": traits | more}))


def handler() -> Any:
    """A browser that came back; the state is checked elsewhere."""
    state = "eyJjb2RlX3ZlcmlmaWVyIjogInYifQ=="  # {"code_verifier": "v"}
    return SimpleNamespace(
        again="/hub/oauth_login",
        nonce="n",
        db=None,  # nobody here instructs a course
        get_argument=lambda name: name,
        get_state_cookie=lambda: state,
    )


async def test_teams_of_all_pages_are_groups(login: Any, github: Github) -> None:
    model = await login.authenticate(handler())
    assert model["name"] == "ada-l"
    kept = model["auth_state"][KEPT]
    assert kept["subject"] == "7"
    assert kept["groups"] == ["school", "school:ml101", "school:staff"]
    assert (model["groups"], model["admin"]) == (["ml101", "hub:admins"], True)
    assert len([path for path in github.asked if path.startswith(TEAMS)]) == 2
    assert await login.check_allowed("ada-l", model)


async def test_a_renamed_account_keeps_its_name(login: Any, github: Github) -> None:
    model = await login.authenticate(handler())
    await login.check_allowed("ada-l", model)
    github.rows["/api/v3/user"] = (200, {"id": 7, "login": "augusta", "email": None})
    assert (await login.authenticate(handler()))["name"] == "ada-l"
    github.rows["/api/v3/user"] = (200, {"id": 8, "login": "ada-l", "email": None})
    other = await login.authenticate(handler())
    with pytest.raises(Refusal, match="belongs to another account"):
        await login.check_allowed("ada-l", other)


BROKEN: dict[str, tuple[str, int, Any, int]] = {
    "an error with 200": (
        "/login/oauth/access_token",
        200,
        {"error": "bad_verification_code", "error_description": "x"},
        403,
    ),
    "no token": ("/login/oauth/access_token", 200, {}, 403),
    "a token that is none": ("/login/oauth/access_token", 200, [], 403),
    "down": ("/login/oauth/access_token", 502, {}, 503),
    "revoked": ("/api/v3/user", 401, {}, 403),
    "no account": ("/api/v3/user", 200, [], 503),
    "half an account": ("/api/v3/user", 200, {"login": "ada"}, 503),
    "no number": ("/api/v3/user", 200, {"login": "ada", "email": None}, 403),
    "busy": (TEAMS, 429, {}, 503),
    "teams that are none": (TEAMS, 200, {"message": "x"}, 403),
    "no teams at all": (TEAMS, 200, None, 503),
    "teams in a page": (TEAMS, 200, b"<html>", 503),
    "a wrong secret": (
        "/login/oauth/access_token",
        401,
        {"error": "invalid_client"},
        503,
    ),
    "a code of another": (
        "/login/oauth/access_token",
        401,
        {"error": "invalid_grant"},
        403,
    ),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
async def test_what_goes_wrong_is_a_sentence(
    login: Any, github: Github, broken: tuple[str, int, Any, int]
) -> None:
    path, status, body, refused = broken
    github.rows[path] = (status, body)
    with pytest.raises(Refusal) as caught:
        await login.authenticate(handler())
    assert caught.value.status_code == refused
    assert caught.value.jupyterhub_message.endswith(".")


async def again(login: Any, model: Any) -> Any:
    """Ask again as a refresh does."""
    state = model["auth_state"]
    return await login.found_fresh(state, Kept.of(state))


async def test_a_token_that_is_refused_was_ended(login: Any, github: Github) -> None:
    """GitHub's do not end by themselves. Asked too much, it says 403: that is none."""
    model = await login.authenticate(handler())
    github.rows["/api/v3/user"] = (401, {"message": "Bad credentials"})
    with pytest.raises(Refused):
        await again(login, model)
    github.rows["/api/v3/user"] = (403, {"message": "limit"})
    with pytest.raises(Expired) as caught:
        await again(login, model)
    assert not isinstance(caught.value, Refused)
    github.headers = {"X-RateLimit-Remaining": "0"}
    with pytest.raises(Unreachable):
        await again(login, model)


async def test_a_renewal_that_is_cut_short_does_not_lose_the_new_token(
    login: Any, github: Github
) -> None:
    """The old refresh token is used up: the next time it would be refused."""
    model = await login.authenticate(handler())
    state = model["auth_state"]
    state["token_response"] = {"refresh_token": "old"}
    renewed = {"access_token": "new", "refresh_token": "newer", "expires_in": 60}
    github.rows["/login/oauth/access_token"] = (200, renewed)
    github.rows["/api/v3/user"] = (502, {})
    with pytest.raises(Unreachable):
        await again(login, model)
    assert state["token_response"] == {"refresh_token": "newer"}


async def test_an_answer_that_cannot_be_used_does_not_lose_the_new_token_either(
    login: Any, github: Github
) -> None:
    """What is wrong at the provider is mended there; then it is asked again."""
    model = await login.authenticate(handler())
    state = model["auth_state"]
    state["token_response"] = {"refresh_token": "old"}
    renewed = {"access_token": "new", "refresh_token": "newer", "expires_in": 60}
    github.rows["/login/oauth/access_token"] = (200, renewed)
    github.rows[TEAMS] = (200, {"message": "x"})
    with pytest.raises(ClaimError):
        await again(login, model)
    assert state["token_response"] == {"refresh_token": "newer"}
    renewed["refresh_token"] = "newest"
    state[KEPT]["only_in_token"] = True
    login.populate_teams_in_auth_state = False
    with pytest.raises(Expired, match="no new one came"):
        await again(login, model)
    assert state["token_response"] == {"refresh_token": "newest"}


@pytest.mark.parametrize("more", [{}, {"refresh_token": None}])
async def test_a_renewal_without_a_new_refresh_token_keeps_the_old_one(
    login: Any, github: Github, more: dict[str, Any]
) -> None:
    model = await login.authenticate(handler())
    model["auth_state"]["token_response"] = {"refresh_token": "old"}
    github.rows["/login/oauth/access_token"] = (200, {"access_token": "new", **more})
    assert (await again(login, model)).tokens["refresh_token"] == "old"


async def test_a_refused_secret_of_the_hub_ends_nobodys_session(
    login: Any, github: Github
) -> None:
    """It was renewed at the provider, or is over: that says nothing of anybody."""
    model = await login.authenticate(handler())
    state = model["auth_state"]
    state["token_response"] = {"refresh_token": "old"}
    for said in ("invalid_client", "unauthorized_client"):
        github.rows["/login/oauth/access_token"] = (401, {"error": said})
        with pytest.raises(Unreachable, match="the hub's client ID or secret"):
            await again(login, model)
    assert state["token_response"] == {"refresh_token": "old"}
    others: list[Any] = [{"error": "invalid_grant"}, {"error": []}, [], b"<html>"]
    for body in others:
        github.rows["/login/oauth/access_token"] = (400, body)
        with pytest.raises(Refused):
            await again(login, model)


async def test_a_token_whose_time_was_over_lapsed(login: Any, github: Github) -> None:
    told = {"access_token": "t", "token_type": "bearer", "expires_in": 3600}
    github.rows["/login/oauth/access_token"] = (200, told)
    model = await login.authenticate(handler())
    github.rows["/api/v3/user"] = (401, {})
    with pytest.raises(Refused):
        await again(login, model)
    now = login.clock()
    login.clock = lambda: now + 3590
    with pytest.raises(Expired) as caught:
        await again(login, model)
    assert not isinstance(caught.value, Refused)

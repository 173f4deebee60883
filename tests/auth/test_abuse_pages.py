"""Bad input to the hub's pages, its login by password and its HTTP port is refused.

The lists below are what was tried, a line each.
"""
# ruff: noqa: E501 - so that a line is one input

from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests
from auth.abuse import ANSWER_WITHIN_S, HUGE, Try, Watched, browser, raw, xsrf
from testbed.role_hub import ADMIN_PASSWORD, PASSWORD, RoleHub, role_hub

LOOPBACK = "torchroom.auth.local.LoopbackAuthenticator"
FILES = """
from torchroom import strict
c.JupyterHub.tornado_settings.update(strict.SETTINGS)
"""
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A real hub with the login of the deployment."""
    folder = tmp_path_factory.mktemp("hub")
    with role_hub(folder, authenticator=LOOPBACK, more=FILES) as hub:
        hub.run("ada")
        hub.run("alice")
        # A start that is refused leaves its traces once.
        refused = {"user_options": {"offer": "none"}}
        hub.root("POST", "/users/alice/servers/new", json=refused)
        watched = Watched(hub)
        watched.begin()
        yield watched


@pytest.fixture(scope="module")
def alice(watched: Watched) -> requests.Session:
    """Her browser, logged in."""
    session = browser(watched.hub, "alice")
    watched.begin()
    return session


def base(hub: RoleHub) -> str:
    return hub.api_url.removesuffix("/api")


# -------------------------------------------------------------------- login by password

LOGINS: dict[str, Any] = {
    "nothing": {},
    "no name": {"password": PASSWORD},
    "no password": {"username": "alice"},
    "an empty name": {"username": "", "password": PASSWORD},
    "a name of spaces": {"username": "   ", "password": PASSWORD},
    "a wrong password": {"username": "alice", "password": "wrong"},
    "an empty password": {"username": "alice", "password": ""},
    "a password beyond ASCII": {"username": "alice", "password": "pässwörd 😀"},
    "a password of 100 kB": {"username": "alice", "password": HUGE},
    "a name of 100 kB": {"username": HUGE, "password": "wrong"},
    "a name of 256 letters": {"username": "y" * 256, "password": PASSWORD},
    "a name with a slash": {"username": "a/b", "password": PASSWORD},
    "a name that leads up": {"username": "..", "password": PASSWORD},
    "a name with a line's end": {"username": "a\nb", "password": PASSWORD},
    "a name that turns letters round": {"username": "a\u202eb", "password": PASSWORD},
    "half of a surrogate pair": b"username=%ed%a0%80&password=x",
    "bytes that are no text": b"username=%ff%fe&password=%ff",
    "an admin with the students' password": {"username": "ada", "password": PASSWORD},
    "an admin in capitals": {"username": "ADA", "password": PASSWORD},
    "an instructor with the students' password": {
        "username": "ivy",
        "password": PASSWORD,
    },
    "a student with half the admins' password": {
        "username": "bob",
        "password": ADMIN_PASSWORD[:20],
    },
    "two names": [("username", "ada"), ("username", "alice"), ("password", "wrong")],
}


@pytest.mark.parametrize("what", LOGINS)
def test_a_login_that_is_none(watched: Watched, what: str) -> None:
    """Nobody is logged in, and no user is made."""
    session = requests.Session()
    url = base(watched.hub) + "/login"
    session.get(url, timeout=ANSWER_WITHIN_S)
    sent: Any = LOGINS[what]
    token = xsrf(session)
    if isinstance(sent, bytes):
        sent += f"&_xsrf={token}".encode()
    else:
        sent = [*(sent.items() if isinstance(sent, dict) else sent), ("_xsrf", token)]
    answer = session.post(
        url,
        data=sent,
        headers={"Content-Type": FORM},
        allow_redirects=False,
        timeout=ANSWER_WITHIN_S,
    )
    watched.check(answer)
    assert "jupyterhub-hub-login" not in session.cookies
    assert HUGE[:1000] not in watched.hub.log()


KINDS = {
    "no form": ({"Content-Type": "application/json"}, b'{"username": "alice"}'),
    "no kind": ({"Content-Type": ""}, b"username=alice&password=x"),
    "a broken multipart": ({"Content-Type": "multipart/form-data; boundary=y"}, b"--x\r\nbroken"),
    "a multipart without its boundary": ({"Content-Type": "multipart/form-data"}, b"--x\r\n"),
    "a multipart without names": ({"Content-Type": "multipart/form-data; boundary=y"}, b"--y\r\nContent-Disposition: form-data\r\n\r\nx\r\n--y--\r\n"),
    "a file for a name": ({"Content-Type": "multipart/form-data; boundary=y"}, b'--y\r\nContent-Disposition: form-data; name="username"; filename="x"\r\n\r\nx\r\n--y--\r\n'),
    "compressed": ({"Content-Type": FORM, "Content-Encoding": "gzip"}, b"\x1f\x8bnot"),
    "100000 fields": ({"Content-Type": FORM}, b"a=b&" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("what", KINDS)
def test_a_login_in_another_shape(watched: Watched, what: str) -> None:
    """Only forms are read, and only what is in them."""
    session = requests.Session()
    url = base(watched.hub) + "/login"
    session.get(url, timeout=ANSWER_WITHIN_S)
    headers, body = KINDS[what]
    answer = session.post(
        url,
        data=body,
        headers={"X-XSRFToken": xsrf(session), **headers},
        allow_redirects=False,
        timeout=ANSWER_WITHIN_S,
    )
    watched.check(answer)


def test_a_form_of_another_site_logs_nobody_in(watched: Watched) -> None:
    """Login CSRF: somebody would work in a stranger's account without knowing."""
    url = base(watched.hub) + "/login"
    stranger = requests.Session()
    stranger.get(url, headers={"User-Agent": "the stranger's"}, timeout=ANSWER_WITHIN_S)
    form = {"username": "bob", "password": PASSWORD}
    for token in ({}, {"_xsrf": ""}, {"_xsrf": "x"}, {"_xsrf": xsrf(stranger)}):
        answer = requests.post(
            url,
            data=form | token,
            headers={"User-Agent": "the victim's", "Sec-Fetch-Site": "cross-site"},
            allow_redirects=False,
            timeout=ANSWER_WITHIN_S,
        )
        watched.check(answer)


def test_wrong_passwords_end_with_429(watched: Watched) -> None:
    """Also for those who would guess right at last; another name is not concerned."""
    url = base(watched.hub) + "/login"

    def log_in(name: str, password: str) -> requests.Response:
        session = requests.Session()
        session.get(url, timeout=ANSWER_WITHIN_S)
        form = {"username": name, "password": password, "_xsrf": xsrf(session)}
        return session.post(
            url, data=form, allow_redirects=False, timeout=ANSWER_WITHIN_S
        )

    for _ in range(10):
        assert log_in("eve", "wrong").status_code == 403
    answer = log_in("eve", PASSWORD)
    assert answer.status_code == 429
    assert "Try again in" in answer.text
    assert int(answer.headers["Retry-After"]) > 0
    watched.check(answer)
    assert log_in("bob", PASSWORD).status_code == 302
    watched.begin()


# ------------------------------------------------------------------------ where next=

NEXT = [
    "//evil.example",
    "///evil.example",
    "////evil.example",
    "//////",
    "https://evil.example",
    "https:/evil.example",
    "https:evil.example",
    "http:///evil.example",
    "//user:password@evil.example/",
    "/\\evil.example",
    "\\\\evil.example",
    "/\\/evil.example",
    "/%2fevil.example",
    "/%5cevil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "\u3000//evil.example",
    "\0//evil.example",
    " //evil.example",
    "//evil.example%2f..",
    "//evil\u3002example",
    "/hub/../..//evil.example",
    "/.//evil.example",
    "/;//evil.example",
    "javascript:alert(1)",
    "data:text/html,x",
    "%0d%0aLocation:%20//evil.example",
    "/hub/home\r\nLocation: //evil.example",
    "//[::1",
    "http://[",
    "//127.0.0.1:1/",
    "/" + "a" * 10_000,
]


@pytest.mark.parametrize("to", NEXT, ids=lambda to: ascii(to)[:40])
def test_no_login_leads_away(
    watched: Watched, alice: requests.Session, to: str
) -> None:
    """As a browser reads it: a backslash is a slash, tabs and line ends are nothing."""
    url = base(watched.hub) + "/login"
    answer = alice.get(
        url, params={"next": to}, allow_redirects=False, timeout=ANSWER_WITHIN_S
    )
    if answer.status_code == 302:
        said = answer.headers["Location"]
        read = "".join(x for x in said if x not in "\t\r\n").replace("\\", "/")
        assert read.startswith("/"), said
        assert not read.startswith("//"), said
        assert urlsplit(urljoin(url, read)).netloc == urlsplit(url).netloc
        assert "evil" not in answer.headers.get("Set-Cookie", "")
    else:
        assert 400 <= answer.status_code < 500
    watched.check_quiet()


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "//evil.example/..", "/\\evil.example", "/%2f/evil.example"],
)
def test_no_address_of_the_hub_leads_away(watched: Watched, path: str) -> None:
    """What is not below /hub is led there, and nowhere else."""
    target = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{watched.hub.port}\r\nConnection: close\r\n\r\n"
    answer = raw(watched.hub.port, target.encode()).decode("latin-1")
    for line in answer.partition("\r\n\r\n")[0].splitlines():
        name, _, value = line.partition(": ")
        if name.lower() == "location":
            assert value.startswith("/"), value
            assert value[1:2] not in {"/", "\\"}, value
    watched.check_quiet()


# --------------------------------------------------------------------------------- pages

AUTHORIZE = "/api/oauth2/authorize?client_id=service-torchroom&response_type=code"
CALLBACK = "/services/torchroom/oauth_callback"
PAGES = [
    Try("another's server", "GET", "/spawn/ada"),
    Try("another's server", "POST", "/spawn/ada"),
    Try("another's progress", "GET", "/spawn-pending/ada"),
    Try("another's page", "GET", "/user/ada/"),
    Try("the admins' page", "GET", "/admin"),
    Try("the GPUs", "GET", "/gpus"),
    Try("a NUL in a name", "GET", "/spawn/%00"),
    Try("a NUL in a name", "GET", "/user/%00/"),
    Try("no UTF-8 in a name", "GET", "/user/%ff/"),
    Try("no UTF-8 in a name", "GET", "/spawn/alice/%ff"),
    Try("a server's name that leads up", "GET", "/spawn/alice/..%2fx"),
    Try("a server's name in capitals", "POST", "/spawn/alice/A_B"),
    Try("a server that is none", "GET", "/spawn-pending/alice/none"),
    Try("an offer that is none", "POST", "/spawn/alice/new", {"offer": "9-gpu"}),
    Try("an offer twice", "POST", "/spawn/alice/new", [("offer", "a"), ("offer", "cpu")]),
    Try("an image", "POST", "/spawn/alice/new", {"offer": "cpu", "image": "evil"}),
    Try("no UTF-8 in a form", "POST", "/spawn/alice/new", b"offer=%ff&_xsrf={xsrf}"),
    Try("a file for an offer", "POST", "/spawn/alice/new", b"--y\r\nbroken", headers={"Content-Type": "multipart/form-data; boundary=y"}),
    Try("no UTF-8", "GET", "/login?next=%ff", who="nobody"),
    Try("no UTF-8", "GET", "/login?username=%ff", who="nobody"),
    Try("no UTF-8", "GET", "/home?x=%ff"),
    Try("a code that is none", "GET", "/accept-share?code=x"),
    Try("a code of nothing", "GET", "/accept-share?code=%00"),
    Try("an error that is none", "GET", "/error/abc"),
    Try("a file above", "GET", "/static/..%2f..%2f..%2fetc/passwd"),
    Try("a file above, hidden", "GET", "/static/%2e%2e/%2e%2e/etc/passwd"),
    Try("a file of nothing", "GET", "/static/%00"),
    Try("a file that is none", "GET", "/static/none.js"),
    Try("no such page", "GET", "/none/%ff"),
    Try("a token in the address", "GET", "/home?token={ada}", who="nobody"),
    Try("without a form's token", "POST", "/spawn/alice/new", {"_xsrf": "", "offer": "cpu"}),
    Try("with another's form's token", "POST", "/spawn/alice/new", {"_xsrf": "2|1|2|3", "offer": "cpu"}),
    # the hub as an OAuth provider of its own services
    Try("no client", "GET", "/api/oauth2/authorize"),
    Try("a client that is none", "GET", "/api/oauth2/authorize?client_id=x&response_type=code"),
    Try("a client of nothing", "GET", "/api/oauth2/authorize?client_id=%00"),
    Try("a client that is no text", "GET", "/api/oauth2/authorize?client_id=%ff"),
    Try("two clients", "GET", AUTHORIZE + "&client_id=x"),
    Try("another site to come back to", "GET", AUTHORIZE + "&redirect_uri=https://evil.example/"),
    Try("another service to come back to", "GET", AUTHORIZE + "&redirect_uri=/services/x/oauth_callback"),
    Try("up to come back to", "GET", AUTHORIZE + "&redirect_uri=" + CALLBACK + "/../../x"),
    Try("an implicit grant", "GET", AUTHORIZE.replace("=code", "=token"), ends_at=(CALLBACK,)),
    Try("more scopes than it may have", "GET", AUTHORIZE + "&scope=admin:users", ends_at=(CALLBACK,)),
    Try("a scope of nothing", "GET", AUTHORIZE + "&scope=%00", ends_at=(CALLBACK,)),
    Try("a PKCE method that is none", "GET", AUTHORIZE + "&code_challenge=x&code_challenge_method=none", ends_at=(CALLBACK,)),
    Try("a user of their own choice", "GET", AUTHORIZE + "&user=ada"),
    Try("consent by another site's form", "POST", AUTHORIZE, {"_xsrf": "", "scopes": "x"}),
]  # fmt: skip


@pytest.mark.parametrize("tried", PAGES, ids=str)
def test_a_page_that_cannot_be(
    watched: Watched, alice: requests.Session, tried: Try
) -> None:
    """A page with a sentence, or the way to the login."""
    session = alice if tried.who == "alice" else requests.Session()
    body = tried.body
    if tried.method == "POST" and isinstance(body, dict | list | None):
        fields = list(body.items()) if isinstance(body, dict) else list(body or [])
        if "_xsrf" not in dict(fields):
            fields.append(("_xsrf", xsrf(session)))
        body = fields
    if isinstance(body, bytes):
        body = body.replace(b"{xsrf}", xsrf(session).encode())
    headers = {"X-XSRFToken": xsrf(session)} if tried.headers else {}
    if isinstance(body, bytes):
        headers["Content-Type"] = FORM
    url = base(watched.hub) + tried.path.replace("{ada}", watched.hub.token("ada"))
    prepared = session.prepare_request(
        requests.Request(tried.method, url, data=body, headers=headers | tried.headers)
    )
    prepared.url = url
    answer = session.send(prepared, allow_redirects=False, timeout=ANSWER_WITHIN_S)
    if answer.is_redirect:
        assert "code=" not in answer.headers["Location"]
    watched.check(answer, *tried.ends_at)


SECRET = "{secret}"
CODE = "grant_type=authorization_code&client_id=service-torchroom"
TOKEN_FORMS = {
    "nothing": "",
    "no code": CODE + "&client_secret={secret}",
    "a code that is none": CODE + "&code=x&client_secret={secret}",
    "a code that is no text": CODE + "&code=%ff&client_secret={secret}",
    "a code of 100 kB": CODE + f"&code={HUGE}&client_secret={{secret}}",
    "half of a surrogate pair": CODE + "&code=%ed%a0%80&client_secret={secret}",
    "a wrong secret": CODE + "&code=x&client_secret=wrong",
    "no secret": CODE + "&code=x",
    "a client that is none": "grant_type=authorization_code&code=x&client_id=x&client_secret=x",
    "a password": "grant_type=password&username=alice&password=x",
    "a client's own token": "grant_type=client_credentials&client_id=service-torchroom&client_secret={secret}",
    "a refresh token": "grant_type=refresh_token&refresh_token=x&client_id=service-torchroom&client_secret={secret}",
    "a kind of nothing": "grant_type=%00&client_id=%00&code=%00",
    "two kinds": CODE + "&grant_type=x&code=x&client_secret={secret}",
    "bytes that are no text": b"\xff\xfe",
    "JSON": '{"grant_type": "authorization_code"}',
}  # fmt: skip


@pytest.mark.parametrize("what", TOKEN_FORMS)
def test_a_code_that_buys_no_token(watched: Watched, what: str) -> None:
    """At /hub/api/oauth2/token, where services change codes for tokens."""
    body: Any = TOKEN_FORMS[what]
    if isinstance(body, str):
        body = body.replace(SECRET, watched.hub.keys["console"]).encode()
    answer = requests.post(
        watched.hub.api_url + "/oauth2/token",
        data=body,
        headers={"Content-Type": FORM},
        timeout=ANSWER_WITHIN_S,
    )
    watched.check(answer)


@pytest.mark.parametrize("query", ["x=y", "user=ada", "code=%00", "?"])
def test_a_code_buys_no_token_by_an_address(watched: Watched, query: str) -> None:
    """What stands in addresses stands in logs, too; nobody need be logged in for it."""
    answer = requests.post(
        f"{watched.hub.api_url}/oauth2/token?{query}",
        data=CODE + f"&code=x&client_secret={watched.hub.keys['console']}",
        headers={"Content-Type": FORM},
        timeout=ANSWER_WITHIN_S,
    )
    watched.check(answer)


def test_a_code_is_good_once_and_for_its_client_only(
    watched: Watched, alice: requests.Session
) -> None:
    """The hub's own codes, for the page of the tokens' service."""
    hub = watched.hub
    n_before = len(hub.log())

    def code() -> str:
        answer = alice.get(
            base(hub) + AUTHORIZE, allow_redirects=False, timeout=ANSWER_WITHIN_S
        )
        query = urlsplit(answer.headers["Location"]).query
        return dict(part.split("=") for part in query.split("&"))["code"]

    def change(code: str, **other: str) -> requests.Response:
        form = {
            "grant_type": "authorization_code",
            "client_id": "service-torchroom",
            "client_secret": hub.keys["console"],
            "redirect_uri": CALLBACK,
            "code": code,
        }
        return requests.post(
            hub.api_url + "/oauth2/token", data=form | other, timeout=ANSWER_WITHIN_S
        )

    of_another = change(code(), client_id="jupyterhub-user-alice", client_secret="x")
    assert of_another.status_code in {400, 401}, of_another.text
    assert change(code(), redirect_uri="/x").status_code == 400
    mine = code()
    assert change(mine).status_code == 200
    assert change(mine).status_code == 400
    assert "Traceback" not in hub.log()[n_before:]
    watched.begin()


# ---------------------------------------------------------------- cookies and headers

COOKIES = [
    "jupyterhub-hub-login=x",
    'jupyterhub-hub-login=""',
    "jupyterhub-hub-login=2|1:0|10:1|20:x|4:eA==|" + "0" * 64,
    "jupyterhub-hub-login=2|1:0",
    "jupyterhub-hub-login=2|1:0|99999999999999999999:1|x",
    "jupyterhub-hub-login=\xff\xfe",
    "jupyterhub-session-id=%00",
    "_xsrf=x",
    "_xsrf=2|x|y|z",
    "_xsrf=" + "x" * 5000,
    "a=" + "b" * 30_000,
    "; ".join(f"a{n}=b" for n in range(2000)),
    "=;;=,;",
]


@pytest.mark.parametrize("cookie", COOKIES, ids=lambda text: ascii(text)[:30])
@pytest.mark.parametrize("path", ["/home", "/token", "/api/users", "/spawn"])
def test_a_cookie_that_somebody_made_up(
    watched: Watched, path: str, cookie: str
) -> None:
    """It is nobody's."""
    answer = requests.get(
        base(watched.hub) + path,
        headers={"Cookie": cookie.encode("latin-1")},
        allow_redirects=False,
        timeout=ANSWER_WITHIN_S,
    )
    watched.check(answer)


def test_a_cookie_that_somebody_changed(
    watched: Watched, alice: requests.Session
) -> None:
    """A letter of it, its end, its time, its name."""
    jar: Any = alice.cookies
    good = str(jar.get("jupyterhub-hub-login", path="/hub/")).strip('"')
    last = "0" if good[-1] != "0" else "1"
    changed = [good[:-1] + last, good[:-9], good + "x", good.upper(), good[1:]]
    parts = good.split("|")
    changed.append("|".join([*parts[:2], "10:9999999999", *parts[3:]]))
    for value in changed:
        answer = requests.get(
            base(watched.hub) + "/home",
            headers={"Cookie": f'jupyterhub-hub-login="{value}"'},
            allow_redirects=False,
            timeout=ANSWER_WITHIN_S,
        )
        watched.check(answer)
    renamed = requests.get(
        watched.hub.api_url + "/user",
        headers={"Cookie": f'jupyterhub-user-ada="{good}"'},
        timeout=ANSWER_WITHIN_S,
    )
    watched.check(renamed)


HEADERS: list[dict[str, str]] = [
    {"X-Forwarded-For": "\x01"},
    {"X-Forwarded-For": "6.6.6.6, " * 1000},
    {"X-Forwarded-Proto": "javascript"},
    {"X-Forwarded-Host": "evil.example"},
    {"X-Forwarded-Prefix": "//evil.example"},
    {"X-Scheme": "javascript"},
    {"X-Real-Ip": "evil"},
    {"Forwarded": "for=x;proto=https;host=evil.example"},
    {"Host": "evil.example"},
    {"Host": "evil.example:99999"},
    {"Host": "[::1"},
    {"Referer": "\xff"},
    {"Origin": "https://evil.example"},
    {"User-Agent": "\xff" * 2000},
    {"Content-Type": "application/json; charset=\xff"},
    {"Range": "bytes=99-1"},
    {"Sec-Fetch-Mode": "\xff"},
    {"Upgrade": "websocket", "Connection": "upgrade"},
    {"X-Forwarded-User": "ada"},
]


@pytest.mark.parametrize("headers", HEADERS, ids=lambda found: ascii(found)[:40])
@pytest.mark.parametrize("path", ["/home", "/spawn", "/admin", "/api/users"])
def test_a_header_that_somebody_made_up(
    watched: Watched, path: str, headers: dict[str, str]
) -> None:
    """It makes nobody anybody, and leads nowhere else."""
    answer = requests.get(
        base(watched.hub) + path,
        headers={name: value.encode("latin-1") for name, value in headers.items()},
        allow_redirects=False,
        timeout=ANSWER_WITHIN_S,
    )
    watched.check(answer)
    assert "evil" not in answer.headers.get("Location", "")


# ---------------------------------------------------------------------------------- HTTP

END = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
POST = b"POST /hub/login" + END
RAW = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a line of one word": b"GET\r\n\r\n",
    "no version": b"GET /hub/home\r\n\r\n",
    "a version that is none": b"GET /hub/home HTTP/9.9\r\nHost: x\r\n\r\n",
    "a NUL in the path": b"GET /hub/\x00" + END + b"\r\n",
    "a space in the path": b"GET /hub/a b" + END + b"\r\n",
    "bytes in the path": b"GET /hub/\xff\xfe" + END + b"\r\n",
    "a path of 70 kB": b"GET /hub/" + b"a" * 70_000 + END + b"\r\n",
    "a header of 100 kB": b"GET /hub/home" + END + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
    "5000 headers": b"GET /hub/home" + END + b"".join(b"X%d: %d\r\n" % (n, n) for n in range(5000)) + b"\r\n",
    "a header without a name": b"GET /hub/home" + END + b": x\r\n\r\n",
    "bytes for a name": b"GET /hub/home" + END + b"\xff\xfe: x\r\n\r\n",
    "a header in two lines": b"GET /hub/home" + END + b"X: a\r\n b\r\n\r\n",
    "two hosts": b"GET /hub/home" + END + b"Host: evil.example\r\n\r\n",
    "no host": b"GET /hub/home HTTP/1.1\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length below 0": POST + b"Content-Length: -1\r\n\r\n",
    "a length that is none": POST + b"Content-Length: x\r\n\r\n",
    "a length of 99 TB": POST + b"Content-Length: 99999999999999\r\n\r\n",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a coding that is none": POST + b"Transfer-Encoding: x\r\n\r\n",
    "a method that is none": b"FOO /hub/login" + END + b"\r\n",
    "TRACE": b"TRACE /hub/home" + END + b"\r\n",
    "CONNECT": b"CONNECT evil.example:443" + END + b"\r\n",
    "the whole server": b"OPTIONS *" + END + b"\r\n",
    "another server": b"GET http://evil.example/hub/home" + END + b"\r\n",
    "half a request": b"GET /hub/home HTT",
}  # fmt: skip


@pytest.mark.parametrize("what", RAW)
def test_what_is_not_http(watched: Watched, what: str) -> None:
    """Is not answered, or with a refusal; nothing waits for it, and others go on."""
    answer = raw(watched.hub.port, RAW[what])
    status = answer.partition(b"\r\n")[0].split(b" ")[1:2]
    assert status in ([], [b"302"]) or status[0].startswith(b"4"), answer[:500]
    assert b"Traceback" not in answer
    assert b"Location: //" not in answer
    assert b"Location: http" not in answer
    watched.check_quiet()


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "FOO"])
@pytest.mark.parametrize(
    "path",
    [
        "/login",
        "/logout",
        "/home",
        "/spawn",
        "/token",
        "/gpus",
        "/api/oauth2/authorize",
    ],
)
def test_a_page_with_another_method(
    watched: Watched, alice: requests.Session, path: str, method: str
) -> None:
    """Even from who is logged in."""
    answer = alice.request(
        method,
        base(watched.hub) + path,
        headers={"X-XSRFToken": xsrf(alice)},
        allow_redirects=False,
        timeout=ANSWER_WITHIN_S,
    )
    watched.check(answer)

"""Bad input to the hub's REST API is refused: nothing changes, nothing is printed.

The lists below are what was tried, a line each.
"""
# ruff: noqa: E501 - so that a line is one input

from collections.abc import Iterator

import pytest
import requests
from auth.abuse import ANSWER_WITHIN_S, HUGE, LONG, Try, Watched
from testbed.role_hub import COURSE, GPU, role_hub

LOOPBACK = "torchroom.auth.local.LoopbackAuthenticator"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A real hub with the login of the deployment."""
    folder = tmp_path_factory.mktemp("hub")
    with role_hub(folder, authenticator=LOOPBACK) as hub:
        for user in ("alice", "bob", "ada"):
            hub.run(user)
        for user in ("alice", "bob"):
            hub.halt(user)
            refused = {"user_options": {"offer": "none"}}  # leaves its traces once
            hub.root("POST", f"/users/{user}/server", json=refused)
        hub.root("PUT", "/users/alice/servers/kept")
        watched = Watched(hub)
        watched.begin()
        yield watched


# ------------------------------------------------------------ bodies that are no bodies

NO_BODY = {
    "bytes that are no text": b"\xff\xfe",
    "half an object": "{",
    "Python, not JSON": "{'a': 1}",
    "a list": "[]",
    "a number": "1",
    "a text": '"text"',
    "true": "true",
    "not a number": "NaN",
    "infinity": '{"a": Infinity}',
    "a number of 5000 digits": '{"a": ' + "9" * 5000 + "}",
    "a number larger than 2**53": '{"a": 9007199254740993}',
    "1e999": '{"a": 1e999}',
    "20000 lists in each other": "[" * 20_000,
    "5000 objects in each other": '{"a":' * 5000 + "1" + "}" * 5000,
    "21 objects in each other": '{"a":' * 21 + "1" + "}" * 21,
    "half of a surrogate pair": '{"name": "\\ud800"}',
    "half of a surrogate pair as a key": '{"\\ud800": 1}',
    "a NUL": '{"name": "a\\u0000b"}',
    "a text of 100 kB": f'{{"name": "{HUGE}"}}',
    "a body of 2 MB": '{"a": [' + "1," * 1_000_000 + "1]}",
    "a form": "name=alice",
}
TAKES_JSON = [
    ("POST", "/users/alice/server", "alice"),
    ("POST", "/users/alice/servers/new", "alice"),
    ("PUT", "/users/alice/servers/new", "alice"),
    ("PATCH", "/users/alice/servers/kept", "alice"),
    ("DELETE", "/users/alice/servers/kept", "alice"),
    ("DELETE", "/users/ada/server", "ada"),
    ("POST", "/users/alice/tokens", "alice"),
    ("POST", "/users/alice/activity", "alice"),
    ("POST", "/shares/alice/kept", "ada"),
    ("POST", "/share-codes/alice/kept", "ada"),
    ("POST", "/users", "ada"),
    ("POST", "/users/newcomer", "ada"),
    ("PATCH", "/users/bob", "ada"),
    ("POST", f"/groups/{COURSE}/users", "ada"),
    ("DELETE", f"/groups/{COURSE}/users", "ada"),
    ("POST", "/groups", "ada"),
    ("POST", "/groups/new", "ada"),
    ("PUT", f"/groups/{COURSE}/properties", "ada"),
    ("POST", "/services/new", "ada"),
    ("PATCH", "/proxy", "ada"),
    ("POST", f"/gpus/{GPU}", "ada"),
    ("POST", "/leases/ls_0000000000000000/ending", "ada"),
]
BODIES = [
    Try(what, method, path, body, who)
    for method, path, who in TAKES_JSON
    for what, body in NO_BODY.items()
]

# ------------------------------------------------------- bodies with the wrong things in

SERVER, KEPT = "/users/alice/server", "/users/alice/servers/kept"
TOKENS, ACTIVITY = "/users/alice/tokens", "/users/alice/activity"
MEMBERS = f"/groups/{COURSE}/users"
ENDING = "/leases/ls_0000000000000000/ending"
WRONG = [
    # a server's options: the pool takes offers by name, and nothing else
    Try("options that are a number", "POST", SERVER, '{"user_options": 5}'),
    Try("options that are a list", "POST", SERVER, '{"user_options": []}'),
    Try("options that are a text", "POST", SERVER, '{"user_options": "x"}'),
    Try("an offer that is none", "POST", SERVER, '{"user_options": {"offer": "9-gpu"}}'),
    Try("an offer that is a number", "POST", SERVER, '{"user_options": {"offer": 5}}'),
    Try("an offer that is a list", "POST", SERVER, '{"user_options": {"offer": ["a"]}}'),
    Try("an offer that is null", "POST", SERVER, '{"user_options": {"offer": null}}'),
    Try("a course of a number", "POST", SERVER, '{"user_options": {"course": 5}}'),
    Try("somebody else's course", "POST", SERVER, '{"user_options": {"course": "bio7"}}'),
    Try("an image", "POST", SERVER, '{"user_options": {"image": "evil"}}'),
    Try("a device", "POST", SERVER, '{"user_options": {"devices": ["GPU-0"]}}'),
    Try("limits", "POST", SERVER, '{"user_options": {"memory_bytes": 1}}'),
    Try("an environment", "POST", SERVER, '{"user_options": {"environment": {}}}'),
    Try("options as they once were", "POST", SERVER, '{"offer": "9-gpu"}'),
    Try("a title of a number", "POST", "/users/alice/servers/new", '{"display_name": 5}'),
    Try("an unknown key", "PATCH", KEPT, '{"offer": "x"}'),
    Try("a name of a number", "PATCH", KEPT, '{"name": 5}'),
    Try("a name that leads up", "PATCH", KEPT, '{"name": "../ada"}'),
    Try("state", "PATCH", KEPT, '{"state": {"lease_id": "x"}}'),
    Try("remove as a number", "DELETE", KEPT, '{"remove": 5}'),
    Try("remove as a text", "DELETE", KEPT, '{"remove": "yes"}'),
    # tokens
    Try("a note of a number", "POST", TOKENS, '{"note": 5}'),
    Try("a note of an object", "POST", TOKENS, '{"note": {}}'),
    Try("an end that is a text", "POST", TOKENS, '{"expires_in": "x"}'),
    Try("an end that is true", "POST", TOKENS, '{"expires_in": true}'),
    Try("an end before the beginning", "POST", TOKENS, '{"expires_in": -1}'),
    Try("an end after all days", "POST", TOKENS, '{"expires_in": 1e30}'),
    Try("scopes of a number", "POST", TOKENS, '{"scopes": 5}'),
    Try("scopes of numbers", "POST", TOKENS, '{"scopes": [5]}'),
    Try("scopes of objects", "POST", TOKENS, '{"scopes": [{}]}'),
    Try("scopes in a text", "POST", TOKENS, '{"scopes": "self"}'),
    Try("a scope that is not theirs", "POST", TOKENS, '{"scopes": ["admin:users"]}'),
    Try("somebody else's scope", "POST", TOKENS, '{"scopes": ["tokens!user=ada"]}'),
    Try("the tokens of all", "POST", TOKENS, '{"scopes": ["custom:tokens:admin"]}'),
    Try("a course's tokens", "POST", TOKENS, '{"scopes":["custom:tokens:course!group=ml101"]}'),
    Try("all GPUs", "POST", TOKENS, '{"scopes": ["custom:gpus:manage"]}'),
    Try("no scope at all", "POST", TOKENS, '{"scopes": ["custom:nothing"]}'),
    Try("a scope of signs", "POST", TOKENS, '{"scopes": ["!!!"]}'),
    Try("a role that is not theirs", "POST", TOKENS, '{"roles": ["admin"]}'),
    Try("roles of a number", "POST", TOKENS, '{"roles": 5}'),
    Try("somebody else's token", "POST", "/users/ada/tokens", "{}"),
    Try("a service's token", "POST", "/users/torchroom/tokens", "{}"),
    # activity
    Try("a time that is a number", "POST", ACTIVITY, '{"last_activity": 5}'),
    Try("yesterday", "POST", ACTIVITY, '{"last_activity": "yesterday"}'),
    Try("a 99th month", "POST", ACTIVITY, '{"last_activity": "9999-99-99T00:00:00Z"}'),
    Try("before all time", "POST", ACTIVITY, '{"last_activity": "0001-01-01T00:00:00+23:00"}'),
    Try("the year 2999", "POST", ACTIVITY, '{"last_activity": "2999-01-01T00:00:00Z"}'),
    Try("servers of a number", "POST", ACTIVITY, '{"servers": 5}'),
    Try("a server of a number", "POST", ACTIVITY, '{"servers": {"": 5}}'),
    Try("a server without a time", "POST", ACTIVITY, '{"servers": {"": {}}}'),
    Try("a server that is none", "POST", ACTIVITY, '{"servers": {"no": {"last_activity": "2026-01-01T00:00:00Z"}}}'),
    Try("in somebody else's name", "POST", "/users/ada/activity", '{"last_activity": "2026-01-01T00:00:00Z"}'),
    # what only admins may at all
    Try("names of a number", "POST", "/users", '{"usernames": 5}', "ada"),
    Try("names in a text", "POST", "/users", '{"usernames": "abc"}', "ada"),
    Try("a name of a number", "POST", "/users", '{"usernames": [5]}', "ada"),
    Try("a name of nothing", "POST", "/users", '{"usernames": [null]}', "ada"),
    Try("an empty name", "POST", "/users", '{"usernames": [""]}', "ada"),
    Try("a name with a slash", "POST", "/users", '{"usernames": ["a/b"]}', "ada"),
    Try("a name too long", "POST", "/users", f'{{"usernames": ["{LONG}"]}}', "ada"),
    Try("maybe an admin", "POST", "/users", '{"usernames": ["x"], "admin": "maybe"}', "ada"),
    Try("an admin of text", "PATCH", "/users/bob", '{"admin": "x"}', "ada"),
    Try("a name that is taken", "PATCH", "/users/bob", '{"name": "ada"}', "ada"),
    Try("a name of a number", "PATCH", "/users/bob", '{"name": 5}', "ada"),
    Try("groups of texts", "PATCH", "/users/bob", '{"groups": ["hub:admins"]}', "ada"),
    Try("roles", "PATCH", "/users/bob", '{"roles": ["admin"]}', "ada"),
    Try("auth state of a number", "PATCH", "/users/bob", '{"auth_state": 5}', "ada"),
    Try("members of a number", "POST", MEMBERS, '{"users": 5}', "ada"),
    Try("members of numbers", "POST", MEMBERS, '{"users": [5]}', "ada"),
    Try("members of nothing", "DELETE", MEMBERS, '{"users": [null]}', "ada"),
    Try("a member nobody knows", "POST", MEMBERS, '{"users": ["who"]}', "ada"),
    Try("no members", "POST", MEMBERS, "{}", "ada"),
    Try("groups of a number", "POST", "/groups", '{"groups": 5}', "ada"),
    Try("a group of a number", "POST", "/groups", '{"groups": [5]}', "ada"),
    Try("a state nobody knows", "POST", f"/gpus/{GPU}", '{"state": "sold"}', "ada"),
    Try("a state of a number", "POST", f"/gpus/{GPU}", '{"state": 5}', "ada"),
    Try("a state without a word", "POST", f"/gpus/{GPU}", '{"state": "draining", "note": ""}', "ada"),
    Try("a note of a number", "POST", f"/gpus/{GPU}", '{"state": "draining", "note": 5}', "ada"),
    Try("a key too many", "POST", f"/gpus/{GPU}", '{"state": null, "x": 1}', "ada"),
    Try("a GPU that is none", "POST", "/gpus/GPU-1", '{"state": null}', "ada"),
    Try("a reason nobody knows", "POST", ENDING, '{"reason": "x", "sentence": "y"}', "ada"),
    Try("a reason of a number", "POST", ENDING, '{"reason": 5, "sentence": "y"}', "ada"),
    Try("a sentence of a number", "POST", ENDING, '{"reason": "idle", "sentence": 5}', "ada"),
    Try("a lease that is none", "POST", ENDING, '{"reason": "max_age", "sentence": "Old."}', "ada"),
    # what is not theirs
    Try("to make a user", "POST", "/users/newcomer"),
    Try("to make themselves an admin", "PATCH", "/users/alice", '{"admin": true}'),
    Try("to rename themselves", "PATCH", "/users/alice", '{"name": "ada"}'),
    Try("to delete somebody", "DELETE", "/users/ada"),
    Try("to join a course", "POST", f"/groups/{COURSE}/users", '{"users": ["alice"]}'),
    Try("to join the admins", "POST", "/groups/hub:admins/users", '{"users": ["alice"]}'),
    Try("to make a group", "POST", "/groups/hub:admins2"),
    Try("to start another's server", "POST", "/users/bob/server"),
    Try("to stop another's server", "DELETE", "/users/ada/server"),
    Try("to see another's tokens", "GET", "/users/ada/tokens"),
    Try("to see another's server", "GET", "/users/ada/server"),
    Try("to see the GPUs", "GET", "/gpus"),
    Try("to take a GPU out", "POST", f"/gpus/{GPU}", '{"state": "draining", "note": "x"}'),
    Try("to say why a server ends", "POST", ENDING, '{"reason": "idle", "sentence": "x"}'),
    Try("to end the hub", "POST", "/shutdown", "{}"),
    Try("to move the proxy", "PATCH", "/proxy", '{"api_url": "http://127.0.0.1:1"}'),
    Try("to make a service", "POST", "/services/new", '{"admin": true}'),
    Try("to see the hub's settings", "GET", "/info"),
    Try("to share what is not shared", "POST", "/shares/alice/kept", '{"user": "bob"}'),
    Try("the admins' way into servers", "POST", "/users/ada/admin-access"),
]  # fmt: skip

# ---------------------------------------------------------------- names in the address

NAMES = {
    "a NUL": "%00",
    "no UTF-8": "%ff",
    "no UTF-8, too long a form of /": "%c0%ae",
    "up": "%2e%2e",
    "up and down": "..%2fada",
    "a line's end": "a%0ab",
    "a return": "a%0d%0aX-Header:%20x",
    "a space at its end": "alice%20",
    "a slash": "a%2Fb",
    "a letter that turns the others round": "a%E2%80%AEb",
    "300 letters": LONG,
    "5000 letters": "x" * 5000,
}
OF_NAMES = [
    ("GET", "/users/{}"),
    ("POST", "/users/{}"),
    ("PATCH", "/users/{}"),
    ("DELETE", "/users/{}"),
    ("POST", "/users/{}/server"),
    ("POST", "/users/alice/servers/{}"),
    ("PUT", "/users/alice/servers/{}"),
    ("DELETE", "/users/alice/servers/{}"),
    ("GET", "/users/alice/servers/{}/progress"),
    ("DELETE", "/users/alice/tokens/{}"),
    ("POST", "/users/{}/activity"),
    ("GET", "/groups/{}"),
    ("POST", "/groups/{}"),
    ("DELETE", "/groups/{}"),
    ("GET", "/services/{}"),
    ("POST", "/gpus/{}"),
    ("POST", "/leases/{}/ending"),
    ("GET", "/authorizations/token/{}"),
]
IN_PATHS = [
    Try(what, method, path.format(name), None, "ada")
    for method, path in OF_NAMES
    for what, name in NAMES.items()
]
SERVER_NAMES = [
    Try(f"the name {name!r}", "POST", f"/users/alice/servers/{name}")
    for name in ("A", "1a", "a--b", "-a", "a-", "a_b", "a.b", "a b", "é", "x" * 31)
]

# ------------------------------------------------------------------------ the rest of it

QUERIES = [
    Try("a limit of letters", "GET", "/users?limit=x", None, "ada"),
    Try("a limit of 25 digits", "GET", f"/users?limit={'9' * 25}", None, "ada"),
    Try("an offset of 25 digits", "GET", f"/users?offset={'9' * 25}", None, "ada"),
    Try("an offset of letters", "GET", "/groups?offset=x", None, "ada"),
    Try("a state that is none", "GET", "/users?state=x", None, "ada"),
    Try("an order that is none", "GET", "/users?sort=x", None, "ada"),
    Try("no UTF-8", "GET", "/users?name_filter=%ff", None, "ada"),
    Try("a token in the address", "GET", "/users?token={ada}", None, "nobody"),
    Try("a token under another name", "GET", "/user?access_token={ada}", None, "nobody"),
]  # fmt: skip
METHODS = [
    Try("no such method here", method, path, None, "ada")
    for path in ("/users", "/users/alice", "/groups", TOKENS, "/gpus", "/info")
    for method in ("TRACE", "CONNECT", "FOO", "PUT")
]
PATHS = [
    Try("no such address", "GET", "/nothing"),
    Try("up", "GET", "/../../etc/passwd"),
    Try("up, hidden", "GET", "/%2e%2e/%2e%2e/etc/passwd"),
    Try("two slashes", "GET", "//users"),
    Try("a semicolon", "GET", "/users;x=1"),
    Try("upper case", "GET", "/USERS"),
]
TOKEN_HEADERS = {
    "none": "",
    "only a kind": "token",
    "a kind and a space": "token ",
    "no UTF-8": "Bearer \xff\xfe",
    "a password": "Basic YWRhOmFkYQ==",
    "another kind": "Digest x",
    "60 kB": "token " + "x" * 60_000,
    "three words": "Bearer a b",
    "nobody's": "Bearer " + "0" * 32,
    "a wildcard": "Bearer %",
    "the hash of one": "Bearer sha512:1:ab:cd",
    "a service's prefix": "token torchroom",
}
TOKENS_TRIED = [
    Try(f"a token: {what}", method, path, None, "nobody", {"Authorization": value})
    for what, value in TOKEN_HEADERS.items()
    for method, path in (("GET", "/user"), ("POST", "/users/x"), ("GET", "/gpus"))
]
FORGED = [
    Try("who one is, said by a header", "GET", "/user", None, "nobody", headers)
    for headers in (
        {"X-Forwarded-User": "ada"},
        {"REMOTE_USER": "ada"},
        {"X-Forwarded-For": "127.0.0.1", "X-Real-Ip": "127.0.0.1"},
        {"X-JupyterHub-User": "ada"},
        {"Cookie": "jupyterhub-hub-login=ada"},
        {"Cookie": "jupyterhub-hub-login=2|1:0|10:1700000000|20:jupyterhub-hub-login"},
        {"Cookie": "jupyterhub-hub-login=" + "x" * 30_000},
        {"Cookie": "=;;=,;\xff"},
    )
]


@pytest.mark.parametrize(
    "tried",
    [
        *BODIES,
        *WRONG,
        *IN_PATHS,
        *SERVER_NAMES,
        *QUERIES,
        *METHODS,
        *PATHS,
        *TOKENS_TRIED,
        *FORGED,
    ],
    ids=str,
)
def test_it_is_refused_and_nothing_changes(watched: Watched, tried: Try) -> None:
    """With a 4xx, and without a traceback in the answer or the log."""
    hub = watched.hub
    headers = {name: value.encode("latin-1") for name, value in tried.headers.items()}
    if tried.who != "nobody":
        headers["Authorization"] = f"token {hub.token(tried.who)}".encode()
    body = tried.body.encode() if isinstance(tried.body, str) else tried.body
    prepared = requests.Request(
        tried.method,
        "http://hub/",
        headers={"Content-Type": "application/json", **headers},
        data=body,
    ).prepare()
    # As it is written: requests would tidy the path up.
    prepared.url = hub.api_url + tried.path.replace("{ada}", hub.token("ada"))
    with requests.Session() as session:
        answer = session.send(prepared, allow_redirects=False, timeout=ANSWER_WITHIN_S)
    watched.check(answer)

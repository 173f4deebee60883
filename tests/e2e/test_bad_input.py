"""Whatever a user sends: an answer with a sentence, nothing created, no traceback."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from testbed.hub import Deployment, User, crowd, message_of

pytestmark = pytest.mark.docker

OPTIONS: dict[str, Any] = {
    "negative number": {"offer": -1},
    "huge number": {"offer": 10**300},
    "float": {"offer": 1.5},
    "not a number": {"offer": float("nan")},
    "true": {"offer": True},
    "list": {"offer": ["1-gpu"]},
    "object": {"offer": {"name": "1-gpu"}},
    "null": {"offer": None},
    "empty string": {"offer": ""},
    "unknown offer": {"offer": "64-gpu"},
    "negative offer": {"offer": "-1-gpu"},
    "float offer": {"offer": "1.5-gpu"},
    "other case": {"offer": "1-GPU"},
    "trailing newline": {"offer": "1-gpu\n"},
    "nul character": {"offer": "1-gpu\x00"},
    "markup": {"offer": "<script>alert(1)</script>"},
    "template": {"offer": "{username}{{7*7}}%(x)s"},
    "a course that is not theirs": {"offer": "cpu", "course": "vision"},
    "a course alone": {"course": "vision"},
    "course as number": {"offer": "cpu", "course": 7},
    "course as list": {"offer": "cpu", "course": ["vision"]},
    "course null": {"offer": "cpu", "course": None},
    "course as template": {"offer": "cpu", "course": "{username}{{7*7}}%(x)s"},
    "huge course": {"offer": "cpu", "course": "x" * 100_000},
    "unknown key": {"offer": "cpu", "gpus": 1},
    "unknown key alone": {"gpus": 4},
    "another image": {"offer": "cpu", "image": "somebody/else:latest"},
    "image alone": {"image": "somebody/else:latest"},
    "environment": {"offer": "cpu", "environment": {"LD_PRELOAD": "/x"}},
    "limits": {"offer": "cpu", "mem_limit": "1T", "cpu_limit": 99},
    "devices": {"offer": "cpu", "devices": ["GPU-0"]},
    "volumes": {"offer": "cpu", "volumes": {"/": "/host"}},
    "privileged": {"offer": "cpu", "extra_host_config": {"privileged": True}},
    "deep": {"offer": [[[[[[[[[[[]]]]]]]]]]]},
    "a list instead of options": ["cpu"],
    "a string instead of options": "cpu",
    "a number instead of options": 7,
}

BODIES: dict[str, tuple[str, bytes]] = {
    "not JSON": ("application/json", b"{"),
    "nothing but a string": ("application/json", b'"cpu"'),
    "a list": ("application/json", b"[1,2]"),
    "not UTF-8": ("application/json", b'{"user_options": "\xff\xfe"}'),
    "a form": ("application/x-www-form-urlencoded", b"offer=1-gpu"),
    "XML": ("text/xml", b"<offer>1-gpu</offer>"),
    "multipart": ("multipart/form-data; boundary=x", b"--x\r\n\r\ncpu\r\n--x--"),
}


@pytest.fixture(scope="module")
def mallory(deployment: Deployment) -> Iterator[User]:
    """A user who tries things."""
    with crowd(deployment) as people:
        yield people("mallory")


@pytest.fixture(autouse=True)
def nothing_created(mallory: User, deployment: Deployment) -> Iterator[None]:
    """After each try there is no container, no volume and no traceback in the log."""
    before = len(deployment.hub_log())
    yield
    assert not deployment.servers(user=mallory.name)
    assert not deployment.homes(user=mallory.name)
    assert "Traceback" not in deployment.hub_log()[before:]


def check_refused(status: int, text: str, message: str) -> None:
    """A client error with a sentence and no insides."""
    assert 400 <= status < 500, f"{status}: {text[:300]}"
    assert "Traceback" not in text
    assert len(message.split()) >= 3, f"not a sentence: {message!r}"
    assert "Error(" not in message


@pytest.mark.parametrize("kind", OPTIONS)
def test_bad_options_are_refused(mallory: User, kind: str) -> None:
    """Only one of those on offer, with a course of theirs or none, starts anything."""
    body = json.dumps({"user_options": OPTIONS[kind]})
    headers = {"Content-Type": "application/json"}
    reply = mallory.api(
        "POST", f"/users/{mallory.name}/server", data=body, headers=headers
    )
    check_refused(reply.status_code, reply.text, message_of(reply))


@pytest.mark.parametrize("kind", BODIES)
def test_bad_bodies_are_refused(mallory: User, kind: str) -> None:
    """Other content types and broken JSON do not start a server."""
    content_type, body = BODIES[kind]
    reply = mallory.api(
        "POST",
        f"/users/{mallory.name}/server",
        data=body,
        headers={"Content-Type": content_type},
    )
    check_refused(reply.status_code, reply.text, message_of(reply))


def test_ten_megabytes_are_refused(mallory: User) -> None:
    """10 MB of options are refused and not kept."""
    for options in (
        {"offer": "x" * 10_000_000},
        {"offer": "cpu", "x": [1] * 3_000_000},
    ):
        reply = mallory.request_server(options)
        check_refused(reply.status_code, reply.text, message_of(reply))
        assert len(reply.text) < 2_000
    assert len(json.dumps(mallory.model())) < 10_000


def test_stored_options_are_checked_again(mallory: User) -> None:
    """Options written into a named server beforehand are checked when it starts."""
    path = f"/users/{mallory.name}/servers/stored"
    bad = {"offer": "1-gpu", "image": "somebody/else"}
    reply = mallory.api("PUT", path, json={"user_options": bad})
    assert reply.status_code < 500, reply.text
    reply = mallory.api("POST", path)
    check_refused(reply.status_code, reply.text, message_of(reply))


def test_arguments_of_the_spawn_page_are_checked(mallory: User) -> None:
    """Options in the address of the spawn page start nothing that is not on offer."""
    for query in (
        "offer=64-gpu",
        "offer=<script>alert(1)</script>",
        "offer=cpu&image=x",
        "offer=cpu&course=vision",
        "offer=cpu&offer=1-gpu",
        "gpus=2",
    ):
        page = mallory.page(f"/hub/spawn/{mallory.name}?{query}")
        assert "Traceback" not in page
        assert "<script>alert" not in page
        assert not mallory.listed()


@pytest.mark.parametrize(
    "form",
    [
        {"offer": "64-gpu"},
        {"offer": ["cpu", "1-gpu"]},
        {"offer": "cpu", "image": "somebody/else"},
        {"offer": "cpu", "course": "vision"},
        {"offer": "cpu", "course": ["vision", ""]},
        {"offer": "<b>bold</b>"},
    ],
)
def test_the_form_is_checked_like_the_api(mallory: User, form: dict[str, Any]) -> None:
    """The page comes back with a sentence."""
    mallory.page("/hub/spawn")
    reply = mallory.session.post(
        f"{mallory.deployment.url}/hub/spawn?_xsrf={mallory.xsrf}",
        data=form,
        timeout=30,
    )
    assert "Traceback" not in reply.text
    assert "<b>bold</b>" not in reply.text
    assert reply.status_code < 500, reply.text[:500]
    assert not mallory.listed()


def test_names_of_servers_are_checked(mallory: User) -> None:
    """Names that are paths or markup make no container."""
    for name in ("..%2f..%2fetc", "%3Cscript%3E", "a" * 300, "%00"):
        reply = mallory.api(
            "POST",
            f"/users/{mallory.name}/servers/{name}",
            json={"user_options": {"offer": "none"}},
        )
        assert 400 <= reply.status_code < 500, f"{name}: {reply.status_code}"
        assert "Traceback" not in reply.text


def test_addresses_are_checked(mallory: User, deployment: Deployment) -> None:
    """JupyterHub alone answers this one with a traceback."""
    reply = mallory.session.get(f"{deployment.url}/hub/static/%00", timeout=30)
    assert reply.status_code == 404
    assert "Traceback" not in reply.text


def test_other_peoples_servers_are_out_of_reach(
    mallory: User, deployment: Deployment
) -> None:
    """Another user's server cannot be started, stopped or watched."""
    victim = deployment.new_user("victim")
    for method in ("POST", "DELETE", "PATCH"):
        reply = mallory.api(method, f"/users/{victim.name}/server", json={})
        assert reply.status_code in {403, 404, 405}
    assert not deployment.servers(user=victim.name)

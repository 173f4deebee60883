"""What a request may contain: whatever comes is taken or refused with a sentence."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchroom import bodies

KEYS = st.sampled_from([*bodies.KNOWN, "other"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20
)


def refused(call: Any, *arguments: Any, **more: Any) -> str:
    with pytest.raises(ValueError, match=r"\.$") as caught:
        call(*arguments, **more)
    return str(caught.value)


@given(st.binary() | VALUES.map(lambda value: json.dumps(value).encode()))
def test_nothing_but_a_sentence_comes_of_any_body(body: bytes) -> None:
    """No other error, whatever it is."""
    told = ""
    try:
        bodies.check_body(body)
    except ValueError as error:
        told = str(error)
    assert not told or told.endswith(".")
    assert len(told) < 300


@pytest.mark.parametrize(
    "body",
    [
        {},
        None,
        {"user_options": {"offer": "1-gpu", "course": "ml101"}},
        {"usernames": ["ada", "Zoë", "学生"], "admin": False},
        {"note": "for my notebook", "expires_in": 3600, "scopes": ["self"]},
        {"note": None, "expires_in": None},
        {"last_activity": "2026-03-02T09:00:00.123456Z"},
        {"servers": {"": {"last_activity": "2026-03-02T09:00:00+01:00"}}},
        {"name": "new", "display_name": "Mine 😀"},
        {"remove": True},
        {"anything": [1, 2.5, "x", {"deep": {"er": None}}]},
    ],
    ids=str,
)
def test_what_jupyterhub_describes_is_taken(body: object) -> None:
    """As its own pages and servers send it."""
    bodies.check_body(json.dumps(body).encode())
    bodies.check_body(b"")


def test_keys_that_are_not_there_are_named() -> None:
    """Where it matters which there are."""
    told = refused(bodies.check_body, b'{"state": 1}', only=frozenset({"name"}))
    assert told == "There is no 'state' here, only name."
    bodies.check_body(b'{"users": 5}', keys_are_free=True)
    assert (
        refused(bodies.check_body, b'{"users": 5}') == "users must be a list of names."
    )


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\0", "a\n", " a", "a ", "x" * 256])
def test_names_that_nobody_has(name: str) -> None:
    """An empty one is the default server's."""
    if name:
        refused(bodies.check_names, [name])
    else:
        bodies.check_names([name, None, "ada", "Zoë Müller", "hub:admins"])


def test_queries() -> None:
    """Texts, and numbers that a database takes."""
    bodies.check_query(
        {"limit": [b"200"], "name_filter": ["Zoë".encode()], "x": [b"-"]}
    )
    refused(bodies.check_query, {"x": [b"\xff"]})
    refused(bodies.check_query, {"limit": [b"9" * 10]})
    refused(bodies.check_query, {"offset": [b"-" + b"9" * 5000]})


def test_what_changes_a_user_may_name_them_as_they_are() -> None:
    """The admin's page sends the name whatever it changes."""
    for body in (b"", b"{}", b'{"admin": true}', b'{"name": "ada", "admin": true}'):
        bodies.check_name_stays(body, "ada")
    for name in ("Ada", "eve", "", None, 5, ["ada"]):
        body = json.dumps({"name": name}).encode()
        assert "identity provider" in refused(bodies.check_name_stays, body, "ada")

"""Names, subjects and groups out of whatever a provider says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchroom.auth import claims
from torchroom.auth.claims import ClaimError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON)
def test_any_claim_is_a_name_or_a_sentence(value: Any) -> None:
    try:
        name = claims.name_of({"n": value}, "n")
    except ClaimError:
        pass
    else:
        assert claims.NAME.fullmatch(name)
        assert name.isascii()
        assert name == name.lower()


@given(JSON)
def test_any_claim_is_groups_or_a_sentence(value: Any) -> None:
    try:
        groups = claims.groups_of({"g": value}, "g")
    except ClaimError:
        pass
    else:
        assert groups is None or all(isinstance(name, str) for name in groups)
        assert (groups is None) == (value is None)


@given(JSON)
def test_any_claim_is_a_subject_or_a_sentence(value: Any) -> None:
    try:
        subject = claims.subject_of({"sub": value}, "sub")
    except ClaimError:
        pass
    else:
        assert 1 <= len(subject) <= claims.SUBJECT_MAX


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("ada", "ada"),
        ("Ada.Lovelace@School.Edu", "ada.lovelace@school.edu"),
        (" ada ", "ada"),
        ("a", "a"),
        ("a+b_c-d", "a+b_c-d"),
    ],
)
def test_names(value: str, name: str) -> None:
    assert claims.name_of({"n": value}, "n") == name


@pytest.mark.parametrize(
    "value",
    ["-ada", "ada.", "..", "a b", "a/b", "a%2fb", "a\x00", "ä", "\u212a", "a:b"],
)
def test_names_that_are_refused(value: str) -> None:
    with pytest.raises(ClaimError):
        claims.name_of({"n": value}, "n")


@pytest.mark.parametrize("said", [False, "false", 0, 1, "True", "", [], {}, "yes"])
def test_an_address_that_was_not_verified_is_no_name(said: Any) -> None:
    """Not even where addresses are trusted."""
    told = {"email": "ada@school.edu", "email_verified": said}
    for trusts in (False, True):
        with pytest.raises(ClaimError, match="not been verified"):
            claims.name_of(told, "email", trusts_email=trusts)
    assert claims.name_of(told | {"preferred_username": "ada"}, "preferred_username")


def test_an_address_of_which_nothing_is_said_is_a_name_where_it_is_trusted() -> None:
    told = {"email": "ada@school.edu", "profile": {"email": "ada@school.edu"}}
    for claim in ("email", "profile.email"):
        with pytest.raises(ClaimError, match="does not say"):
            claims.name_of(told, claim)
        assert claims.name_of(told, claim, trusts_email=True)
        for verified in (True, "true"):
            assert claims.name_of(told | {"email_verified": verified}, claim)


def test_claims_inside_of_claims() -> None:
    said = {"realm_access": {"roles": ["a"]}, "https://x.edu/groups": ["b"]}
    assert claims.groups_of(said, "realm_access.roles") == frozenset({"a"})
    assert claims.groups_of(said, "https://x.edu/groups") == frozenset({"b"})
    assert claims.groups_of(said, "realm_access.roles.deeper") is None


def test_github_numbers_its_accounts() -> None:
    assert claims.subject_of({"id": 42}, "id") == "42"
    with pytest.raises(ClaimError):
        claims.subject_of({"id": True}, "id")


def test_teams() -> None:
    team = {"slug": "ml101", "organization": {"login": "school"}, "id": 1}
    assert claims.teams_of([team]) == frozenset({"school", "school:ml101"})
    assert claims.teams_of([]) == frozenset()
    assert claims.teams_of(None) is None
    with pytest.raises(ClaimError):
        claims.teams_of([{"slug": "ml101"}])


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"hd": "school.edu"}, ""),
        ({"hd": "evil.edu"}, "hd"),
        ({}, "hd"),
        ({"hd": ["school.edu"]}, "hd"),
    ],
)
def test_required_claims(said: dict[str, Any], wrong: str) -> None:
    assert claims.missing(said, {"hd": ["school.edu"]}) == wrong

"""Who may do what is decided from a token's scopes alone, as JupyterHub means them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyterhub.scopes import define_custom_scopes
from jupyterhub.services.auth import check_scopes
from torchroom.console import access, scopes
from torchroom.console.access import Identity
from torchroom.console.guards import check_identity
from torchroom.console.refusals import NotAllowed

NAMES = st.sampled_from(["alice", "bob", "ml101", "a!b", "a=b", "*", "user"])
FILTERS = st.sampled_from(["", "user", "group", "server", "service"])
OWN = st.sampled_from([scopes.BALANCE, scopes.SELF, scopes.COURSE, scopes.ADMIN])


def scope_of(name: str, kind: str, value: str) -> str:
    return f"{name}!{kind}={value}" if kind else name


GRANTED = st.frozensets(st.builds(scope_of, OWN, FILTERS, NAMES))


def user(name: str, *granted: str) -> Identity:
    return Identity("user", name, frozenset(granted))


@pytest.mark.filterwarnings("ignore:.*combinations of filters")
@given(granted=GRANTED, wanted=OWN, kind=st.sampled_from(["user", "group"]), name=NAMES)
def test_a_token_has_a_scope_exactly_when_jupyterhub_says_so(
    granted: frozenset[str], wanted: str, kind: str, name: str
) -> None:
    """Compared with the arithmetic that JupyterHub's own services use."""
    who = Identity("user", "alice", granted)
    theirs = bool(check_scopes(scope_of(wanted, kind, name), granted))
    assert who.has(wanted, **{kind: name}) == theirs


def test_jupyterhub_takes_the_definitions() -> None:
    """Their names, descriptions and subscopes are valid."""
    define_custom_scopes(scopes.CUSTOM_SCOPES)


@given(granted=GRANTED, name=NAMES)
def test_only_an_unfiltered_admin_scope_makes_an_admin(
    granted: frozenset[str], name: str
) -> None:
    """`custom:tokens:admin!user=alice` is no admin of anything."""
    assert access.is_admin(Identity("user", name, granted)) == (scopes.ADMIN in granted)


def test_a_scope_for_one_user_is_not_one_for_another() -> None:
    """Alice's token under bob's name would not read either's."""
    alices = f"{scopes.SELF}!user=alice"
    assert access.may_act_for_self(user("alice", alices))
    assert not access.may_act_for_self(user("bob", alices))


def test_a_servers_scope_reads_the_balance_only() -> None:
    """Not the history, nothing of a course."""
    who = user("alice", f"{scopes.BALANCE}!user=alice", "access:servers!server=alice/")
    assert access.may_read_own_balance(who)
    assert not access.may_act_for_self(who)
    assert not access.may_run_course(who, "ml101")


def test_a_service_has_no_tokens_of_its_own() -> None:
    """Not even a user's of the same name, whatever its scopes."""
    who = Identity("service", "alice", frozenset({scopes.SELF, scopes.BALANCE}))
    assert not access.may_read_own_balance(who)
    assert not access.may_act_for_self(who)
    assert who.actor == "service alice"


def test_a_user_cannot_pass_for_a_service() -> None:
    """A user of that name would be recorded like the service, and meet its keys."""
    check_identity(Identity("service", "bank", frozenset()))
    check_identity(user("services"))
    with pytest.raises(NotAllowed, match="must not begin with 'service '"):
        check_identity(user("service bank"))


def test_an_instructor_runs_the_courses_named_in_the_scopes() -> None:
    """A user filter does not become a group's."""
    who = user("ivy", scopes.of_course("ml101"), f"{scopes.COURSE}!user=bio7")
    assert access.may_run_course(who, "ml101")
    assert not access.may_run_course(who, "bio7")

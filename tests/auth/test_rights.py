"""What somebody is, in JupyterHub's own database."""

from typing import Any

import pytest
from auth import people
from jupyterhub import orm, scopes
from torchroom.auth import rights
from torchroom.roles import OF_CLASS

STUDENT: dict[str, Any] = {"admin": False, "groups": ["ml101"]}
INSTRUCTOR: dict[str, Any] = {
    "admin": False,
    "groups": ["instructors-of-ml101", "ml101"],
}
ADMIN: dict[str, Any] = {"admin": True, "groups": ["hub:admins"]}


@pytest.fixture
def db() -> Any:
    return people.database()


def of(user: Any) -> set[str]:
    """The scopes that somebody has now."""
    found: set[str] = scopes.get_scopes_for(user.orm_user)
    return found


@pytest.mark.parametrize("wanted", [STUDENT, INSTRUCTOR, ADMIN])
def test_somebody_is_just_what_is_said(db: Any, wanted: dict[str, Any]) -> None:
    ivy = people.user(db, "ivy")
    rights.set_rights(ivy, {"admin": True, "groups": ["bio7", "hub:admins"]})
    assert "admin:users" in of(ivy)
    rights.set_rights(ivy, wanted)
    assert rights.rights_of(ivy) == wanted
    assert ("admin:users" in of(ivy)) == wanted["admin"]
    assert rights.is_power(wanted) == (wanted is not STUDENT)


def test_a_new_course_gets_its_instructors_role_when_somebody_instructs_it(
    db: Any,
) -> None:
    """And just the scopes that it would get at the hub's start, for this course."""
    ivy = people.user(db, "ivy")
    for _ in range(2):
        rights.make_roles(db, INSTRUCTOR["groups"])
        rights.set_rights(ivy, INSTRUCTOR)
    assert {f"{scope}!group=ml101" for scope in OF_CLASS} <= of(ivy)
    assert "custom:tokens:course!group=ml101" in of(ivy)
    assert not {scope for scope in of(ivy) if "bio7" in scope}
    [role] = db.query(orm.Role).filter(orm.Role.name.like("instructor-of-%"))
    assert [group.name for group in role.groups] == ["instructors-of-ml101"]
    assert not role.users
    rights.set_rights(ivy, STUDENT)
    assert not {scope for scope in of(ivy) if "ml101" in scope}


def test_students_make_no_roles(db: Any) -> None:
    n_before = db.query(orm.Role).count()
    rights.make_roles(db, ["ml101", "hub:admins"])
    assert db.query(orm.Role).count() == n_before


def test_no_login_counts_any_more(db: Any) -> None:
    """Of this user; another one's do."""
    ada, eve = people.user(db, "ada"), people.user(db, "eve")
    cookies = ada.cookie_id, eve.cookie_id
    for user in (ada, eve):
        user.new_api_token(note="own")
        client = orm.OAuthClient(identifier=f"service-{user.name}")
        db.add(client)
        db.add(orm.OAuthCode(code="c", client=client, user=user.orm_user))
    db.commit()
    rights.end_logins(ada)
    assert (ada.api_tokens, len(eve.api_tokens)) == ([], 1)
    assert [code.user.name for code in db.query(orm.OAuthCode)] == ["eve"]
    assert ada.cookie_id != cookies[0]
    assert eve.cookie_id == cookies[1]

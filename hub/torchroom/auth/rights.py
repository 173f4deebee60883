"""What somebody is in JupyterHub's database: changed at once.

JupyterHub does some of it itself, with what a login or a refresh returned: later, and
not for who is refused. It ends no cookies and tokens, and makes roles at its start.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from jupyterhub import orm, roles

from torchroom import roles as our_roles
from torchroom.membership import OF_INSTRUCTORS, Standing

Rights = Mapping[str, Any]
"""`admin` and the names of all `groups`, as JupyterHub's authenticators return them."""


def model_of(db: Any, name: str, standing: Standing) -> dict[str, Any]:
    """Return what somebody is, as JupyterHub's authenticators do.

    The roles of the courses that they instruct are there from now on.
    """
    groups = our_roles.groups_of(standing)
    make_roles(db, groups)
    return {"name": name, "admin": standing.is_admin, "groups": groups}


def without_power(standing: Standing) -> Standing:
    """Return it with courses only: no admin's, and no instructor's."""
    return replace(standing, taught=(), is_admin=False)


def set_rights(user: Any, rights: Rights) -> None:
    """Give somebody just these groups, and the right to be admin or not."""
    user.orm_user.admin = rights["admin"]
    user.sync_groups(rights["groups"])
    roles.assign_default_roles(user.db, entity=user.orm_user)
    user.db.commit()


def rights_of(user: Any) -> Rights:
    """Return what the hub knows somebody to be."""
    groups = sorted(row.name for row in user.orm_user.groups)
    return {"admin": user.admin, "groups": groups}


def is_power(rights: Rights) -> bool:
    """Whether they are an admin's, or those of some course's instructor."""
    return bool(rights["admin"]) or any(map(_is_of_instructors, rights["groups"]))


def end_logins(user: Any) -> None:
    """Let nothing count any more that somebody logged in with.

    Cookies, API tokens (also those that their running servers have), and what is half
    way to becoming one.
    """
    row, db = user.orm_user, user.db
    for token in list(row.api_tokens):
        db.delete(token)
    db.query(orm.OAuthCode).filter_by(user_id=row.id).delete()
    row.cookie_id = orm.new_token()
    db.commit()


def make_roles(db: Any, groups: Iterable[str]) -> None:
    """Make the roles of courses' instructors that are not there yet.

    The hub makes those of all courses when it starts (`roles.grant`); a course may be
    newer.

    Args:
        db: JupyterHub's database.
        groups: Somebody's; those of instructors get their role.
    """
    for name in filter(_is_of_instructors, groups):
        role = our_roles.instructor(name.removeprefix(OF_INSTRUCTORS))
        if orm.Role.find(db, role["name"]) is not None:
            continue
        group = orm.Group.find(db, name)
        if group is None:
            group = orm.Group(name=name)
            db.add(group)
        roles.grant_role(db, group, roles.create_role(db, role, commit=False))


def _is_of_instructors(group: str) -> bool:
    return group.startswith(OF_INSTRUCTORS)

"""JupyterHub's own database and users, without a hub around them."""

from typing import Any

from jupyterhub import orm, roles, scopes
from jupyterhub.user import User
from torchroom import roles as our_roles
from torchroom.membership import Membership


def database() -> Any:
    """A database as a hub has it whose courses.toml was empty when it started."""
    db = orm.new_session_factory("sqlite:///:memory:")()
    db.add(orm.OAuthClient(identifier="jupyterhub"))  # of tokens made by hand
    for role in roles.get_default_roles():
        roles.create_role(db, role)
    defined = our_roles.grant(Membership(), {}, services=[]).custom_scopes
    if not defined.keys() <= scopes.scope_definitions.keys():
        scopes.define_custom_scopes(defined)
    return db


def user(db: Any, name: str) -> Any:
    """Somebody whom the hub knows, and who may do nothing yet."""
    row = orm.User(name=name)
    db.add(row)
    db.commit()
    return User(row, {})

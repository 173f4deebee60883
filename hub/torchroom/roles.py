"""Who may do what on this hub: every role, every scope. Pure.

docs/roles.md shows it for people; tests/roles tries each cell of that table.

student      JupyterHub's own role `user` and what `EVERYBODY` adds, for themselves only
instructor   of one course: sees its class and hands out its tokens; bound to the
             course's group of instructors, so leaving the group is losing the role
admin        JupyterHub's own role `admin`, and the GPUs and all tokens
service      one role each, with what it calls and nothing else
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torchroom.console import scopes
from torchroom.membership import OF_INSTRUCTORS, Membership, Standing

ADMINS_GROUP = "hub:admins"
"""The JupyterHub group of those whom courses.toml calls admins.

A course's name has no colon, so nobody gets into it by being in a course.
"""

EVERYBODY = (scopes.EVERYBODY, scopes.ACCESS, f"{scopes.OWN_SERVERS}!user")
"""What each user has beside what JupyterHub gives."""

STEWARD = "steward"
"""The name of the steward among the hub's services."""

OF_STEWARD = (
    "list:users",
    "read:users:activity",
    "read:servers",
    "delete:servers",
    "custom:gpus:read",
    "custom:servers:end",
)
"""It looks at every server and at the GPUs, says why, and stops; it starts nothing."""

OF_CLASS = ("list:users", "read:users:activity", "read:servers", "read:groups")
"""What an instructor may read of a course's members, each with `!group=COURSE`.

Not among them: opening, starting or stopping a student's server, tokens in a student's
name, changing groups, and anything of JupyterHub's that changes a user.
"""

Role = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Grants:
    """What jupyterhub_config.py hands to JupyterHub, under the names it has there."""

    load_roles: list[Role]
    custom_scopes: dict[str, Any]
    extra_user_scopes: set[str]
    server_token_scopes: list[str]


def grant(
    membership: Membership,
    window_scopes: Mapping[str, Any],
    *,
    admins: Collection[str] = (),
    services: Collection[str] = (scopes.SERVICE,),
) -> Grants:
    """Return all roles and scopes of a hub.

    Args:
        membership: Its courses; each gets a role for its instructors. That of a course
            which comes later is made when somebody instructs it: `auth.rights`.
        window_scopes: `gpuspawner.window.SCOPES`: what there is to do with GPUs.
        admins: Admins by name, in addition to those in `ADMINS_GROUP`.
        services: Which of our services it runs; JupyterHub refuses roles of others.
    """
    whom: Role = {"users": sorted(admins), "groups": [ADMINS_GROUP]}
    named = {scopes.SERVICE: _console(), STEWARD: _steward()}
    return Grants(
        load_roles=[
            {
                "name": "gpu-admin",
                "description": "See who holds which GPU, take GPUs out of service",
                "scopes": list(window_scopes),
                **whom,
            },
            {
                "name": "token-admin",
                "description": "Grant tokens, set prices and budgets, see statements",
                "scopes": [scopes.ADMIN],
                **whom,
            },
            *(instructor(course) for course in membership.courses),
            *(role for name, role in named.items() if name in services),
        ],
        custom_scopes={**scopes.CUSTOM_SCOPES, **window_scopes},
        extra_user_scopes=set(EVERYBODY),
        server_token_scopes=list(scopes.SERVER),
    )


def groups_of(standing: Standing) -> list[str]:
    """Return the JupyterHub groups that somebody is in, which give the roles above."""
    return [*standing.groups, *([ADMINS_GROUP] if standing.is_admin else [])]


def instructor(course: str) -> Role:
    """Return the role of a course's instructors."""
    return {
        "name": f"instructor-of-{course}",
        "description": f"See the class of {course}, hand out its tokens",
        "scopes": [
            *(f"{scope}!group={course}" for scope in OF_CLASS),
            scopes.of_course(course),
        ],
        "groups": [OF_INSTRUCTORS + course],
    }


def _console() -> Role:
    return {
        "name": "token-service",
        "description": "Read who is in which course",
        "scopes": list(scopes.OF_SERVICE),
        "services": [scopes.SERVICE],
    }


def _steward() -> Role:
    return {
        "name": "steward",
        "description": "Stop servers that are idle, too old or out of time",
        "scopes": list(OF_STEWARD),
        "services": [STEWARD],
    }

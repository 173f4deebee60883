"""The scopes that say who may do what with tokens, for jupyterhub_config.py.

Nobody needs `admin:users` or any other of JupyterHub's own scopes for tokens.

balance   read what is available, nothing else: what a user's server may
self      read the own balance, history and usage, redeem vouchers: every user
course    read a course and hand out its tokens; only with `!group=COURSE`
admin     everything, for everybody

Beside them: what one may do with the warnings of one's own servers (an extension takes
tokens), which a server may for its owner, too.
"""

BALANCE = "custom:tokens:balance"
SELF = "custom:tokens:self"
COURSE = "custom:tokens:course"
ADMIN = "custom:tokens:admin"
OWN_SERVERS = "custom:servers:own"

SERVICE = "torchroom"
"""The name of the console among the hub's services."""

CUSTOM_SCOPES: dict[str, dict[str, str | list[str]]] = {
    ADMIN: {
        "description": "Grant tokens, set prices, budgets, allowances and vouchers",
        "subscopes": [SELF, COURSE, BALANCE],
    },
    COURSE: {"description": "See a course's tokens and hand them out to its students"},
    SELF: {
        "description": "See your token history and usage, redeem vouchers",
        "subscopes": [BALANCE],
    },
    BALANCE: {"description": "See how many tokens you have"},
    OWN_SERVERS: {"description": "See when your servers will stop, and extend them"},
}
"""For `c.JupyterHub.custom_scopes`."""

EVERYBODY = f"{SELF}!user"
"""For `c.JupyterHub.extra_user_scopes`: each user has it for themselves."""

ACCESS = f"access:services!service={SERVICE}"
"""For `c.JupyterHub.extra_user_scopes`: who may log in to the page "Your tokens"."""

OF_PAGE = (EVERYBODY, f"{OWN_SERVERS}!user")
"""For the service's `oauth_client_allowed_scopes`: what the page may do for a user."""

SERVER = (
    "users:activity!user",
    "access:servers!server",
    f"{BALANCE}!user",
    f"{OWN_SERVERS}!user",
)
"""For `c.Spawner.server_token_scopes`: JupyterHub's own two, and what Lab shows."""

OF_SERVICE = ("list:groups", "read:groups")
"""What the console itself needs from the hub: the members of the courses."""


def of_course(name: str) -> str:
    """Return the scope of an instructor of one course, for a role in `load_roles`."""
    return f"{COURSE}!group={name}"

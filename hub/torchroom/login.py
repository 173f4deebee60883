"""The local login: one generated password for everybody on this machine, one for admin.

It is meant for a hub that listens on 127.0.0.1 only; OAuth replaces it.
"""

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "local-login.json"
ADMIN = "admin"


class LoginFileError(Exception):
    """The file with the passwords is there but cannot be used."""


@dataclass(frozen=True, slots=True)
class LocalLogin:
    """Passwords of the local login.

    Attributes:
        user_password: Lets any user name in that is not an admin's.
        admin_user: The admin's name.
        admin_password: The admin's password.
    """

    user_password: str
    admin_user: str
    admin_password: str


def local_login(data_dir: Path) -> LocalLogin:
    """Return the passwords kept in `data_dir`; generate them at the first call.

    The file is readable by its owner alone. It is written whole or not at all.

    Raises:
        LoginFileError: The file exists but is damaged.
    """
    path = data_dir / FILE
    try:
        return LocalLogin(**json.loads(path.read_text()))
    except FileNotFoundError:
        pass
    except (ValueError, TypeError) as error:
        raise LoginFileError(
            f"{path} is damaged ({error}). Delete it and restart the hub: "
            "new passwords are generated."
        ) from error
    login = LocalLogin(secrets.token_urlsafe(9), ADMIN, secrets.token_urlsafe(30))
    draft = path.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.chmod(0o600)
    draft.write_text(json.dumps(asdict(login)))
    os.replace(draft, path)
    return login

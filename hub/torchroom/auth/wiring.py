"""The login as JupyterHub's configuration: from the environment to traits."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from traitlets.config import Config

from torchroom import login as passwords
from torchroom import public
from torchroom.auth import discovery, providers, settings
from torchroom.auth.authenticator import GithubAuthenticator, OidcAuthenticator
from torchroom.auth.courses import Courses
from torchroom.auth.local import LoopbackAuthenticator
from torchroom.auth.pace import PACE
from torchroom.membership import Membership
from torchroom.settings import SettingError

SERVERS, PROXY = "TORCHROOM_SUBNET", "TORCHROOM_PROXY_ADDRESS"
KEY_FILE = "auth-state-key"
KEY_VARIABLE = "JUPYTERHUB_CRYPT_KEY"


@dataclass(frozen=True, slots=True)
class Login:
    """How people log in.

    Attributes:
        config: For JupyterHub: ``c.merge(login.config)``.
        membership: Who is in which course, as courses.toml says at the hub's start.
        admins: Admins by name, beside those of courses.toml.
    """

    config: Config
    membership: Membership
    admins: tuple[str, ...]


def login(env: Mapping[str, str], data_dir: Path) -> Login:
    """Return the login that the environment asks for; asks the provider who it is.

    Args:
        env: The hub's environment.
        data_dir: Where passwords, keys and the provider's last description are kept.

    Raises:
        SettingError: It cannot be; the hub must not start.
    """
    asked = settings.read(env)
    site = public.read(env)
    PACE.n_proxies = site.n_proxies
    PACE.servers, PACE.proxy = _servers(env), env.get(PROXY, "")
    membership = Courses(asked.courses_file).membership
    if asked.is_local:
        return _local(asked, site, membership, data_dir)
    if membership.is_empty:
        raise SettingError(
            f"{asked.courses_file} names nobody, so nobody could log in. Write at "
            'least admins = ["your-name"], or a course with its groups: '
            '[course.ml101] and student_groups = ["ml101"].'
        )
    return Login(_oauth(env, asked, site, data_dir), membership, ())


def _servers(env: Mapping[str, str]) -> IPv4Network | None:
    try:
        return IPv4Network(env[SERVERS]) if env.get(SERVERS) else None
    except ValueError as error:
        raise SettingError(f"{SERVERS} is no IPv4 network: {error}.") from error


def _local(
    asked: settings.LoginSettings,
    site: public.Public,
    membership: Membership,
    data_dir: Path,
) -> Login:
    if not site.is_loopback:
        raise SettingError(
            f"{public.URL} is {site.url!r}, and {settings.LOGIN} is {settings.LOCAL}: "
            "the hub's own passwords are for this machine only. Set up an identity "
            f"provider: {settings.LOGIN}={', '.join(settings.PROVIDERS)} "
            "(docs/login.md)."
        )
    known = passwords.local_login(data_dir)
    c = Config()
    c.JupyterHub.authenticator_class = LoopbackAuthenticator
    c.LoopbackAuthenticator.user_password = known.user_password
    c.LoopbackAuthenticator.admin_password = known.admin_password
    c.LoopbackAuthenticator.courses_file = str(asked.courses_file or "")
    c.LoopbackAuthenticator.manage_groups = asked.courses_file is not None
    c.LoopbackAuthenticator.auth_refresh_age = asked.recheck_s
    c.Authenticator.admin_users = {known.admin_user}
    c.Authenticator.allow_all = True
    return Login(c, membership, (known.admin_user,))


def _oauth(
    env: Mapping[str, str],
    asked: settings.LoginSettings,
    site: public.Public,
    data_dir: Path,
) -> Config:
    known = providers.preset(asked)
    found = None
    if known.discovery_url:
        found = discovery.endpoints(known.discovery_url, data_dir)
    kind = GithubAuthenticator if found is None else OidcAuthenticator
    traits = providers.traits(asked, known, found, hub_url=site.hub_url)
    c = Config()
    c.JupyterHub.authenticator_class = kind
    c[kind.__name__].update(
        traits | {"data_dir": str(data_dir), "courses_file": str(asked.courses_file)}
    )
    if not env.get(KEY_VARIABLE):
        c.CryptKeeper.keys = [_key(data_dir)]
    return c


def _key(data_dir: Path) -> str:
    """Return the key that encrypts what is kept of logins; make it at the first call.

    Raises:
        SettingError: The file is damaged.
    """
    path = data_dir / KEY_FILE
    if not path.exists():
        draft = path.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.chmod(0o600)
        draft.write_text(secrets.token_hex(32), encoding="ascii")
        os.replace(draft, path)
    key = path.read_bytes().decode("ascii", "replace").strip()
    if len(key) != 64 or not set(key) <= set("0123456789abcdef"):  # noqa: PLR2004
        raise SettingError(
            f"{path} is damaged. Delete it and restart the hub; everybody must log "
            "in again then."
        )
    return key

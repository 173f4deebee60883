"""Reads the deployment: its settings' files, and how its public address answers."""

import http.client
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from torchroom.auth.settings import read as read_login
from torchroom.doctor.model import Answer, Deployment
from torchroom.public import Public
from torchroom.public import read as read_public
from torchroom.settings import SettingError

ANSWERS_WITHIN_S = 10.0
OTHERS_READ = 0o004
Read = TypeVar("Read")


def read_deployment(
    env: Mapping[str, str],
    secrets: tuple[Path, ...] = (),
    *,
    is_host: bool = True,
    refused: tuple[tuple[str, str], ...] | None = None,
) -> Deployment:
    """Return what can be read of the settings; asks the public address if it is HTTPS.

    Args:
        env: The deployment's.
        secrets: Files with secrets, beside those that the environment names.
        is_host: Whether an address of this machine alone is the hub's: inside a
            container it is the container's.
        refused: See Deployment.
    """
    login, login_error = _tried(read_login, env)
    courses, error = _courses(login.courses_file if login else None)
    public, public_error = _tried(read_public, env)
    named = [Path(env[key]) for key in env if key.endswith("_SECRET_FILE") and env[key]]
    return Deployment(
        login=login,
        login_error=login_error,
        public=public,
        public_error=public_error,
        courses=courses,
        courses_error=error,
        answer=ask(public.url) if public and _is_asked(public, is_host) else None,
        open_files=tuple(str(path) for path in (*secrets, *named) if _is_open(path)),
        refused=refused,
        subnet=_subnet(env.get("TORCHROOM_SUBNET", "")),
        bridge=env.get("TORCHROOM_BRIDGE", ""),
    )


def _is_asked(public: Public, is_host: bool) -> bool:
    return public.is_secure and (is_host or not public.is_loopback)


def _subnet(text: str) -> IPv4Network | None:
    try:
        return IPv4Network(text)
    except ValueError:
        return None


def _tried(
    read: Callable[[Mapping[str, str]], Read], env: Mapping[str, str]
) -> tuple[Read | None, str]:
    """Return what a reader of settings returns, or why it does not."""
    try:
        return read(env), ""
    except (SettingError, OSError) as error:
        return None, str(error)


def _courses(path: Path | None) -> tuple[str | None, str]:
    if path is None:
        return None, ""
    try:
        return path.read_text(encoding="utf-8"), ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not plain text"
        return None, f"TORCHROOM_COURSES: {path} cannot be read: {reason}."


def _is_open(path: Path) -> bool:
    try:
        return path.is_file() and bool(path.stat().st_mode & OTHERS_READ)
    except OSError:
        return False  # who cannot look at it cannot read it either


def ask(url: str) -> Answer:
    """Return how a browser's first request to the hub's login page ends."""
    try:
        return _ask(url, ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        return Answer(error=f"{error.verify_message}.", is_untrusted=True)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(error=f"{error}.")


def _ask(url: str, context: ssl.SSLContext) -> Answer:
    there = urlsplit(url)
    connection = http.client.HTTPSConnection(
        there.hostname or "",
        there.port or 443,
        timeout=ANSWERS_WITHIN_S,
        context=context,
    )
    try:
        connection.connect()
        certificate = connection.sock.getpeercert() or {}
        connection.request("GET", "/hub/login")
        answer = connection.getresponse()
    finally:
        connection.close()
    cookies = answer.headers.get_all("Set-Cookie") or []
    ends = certificate.get("notAfter")
    return Answer(
        certificate_ends=datetime.fromtimestamp(
            ssl.cert_time_to_seconds(str(ends)), UTC
        )
        if ends
        else None,
        has_hsts="Strict-Transport-Security" in answer.headers,
        n_cookies=len(cookies),
        open_cookies=tuple(
            cookie.partition("=")[0]
            for cookie in cookies
            if "secure" not in {part.strip().lower() for part in cookie.split(";")}
        ),
    )

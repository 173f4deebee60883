"""What an OpenID provider says of itself: its addresses, and how it signs.

Asked once, when the hub starts. The last good answer is kept in the data directory, so
that a hub starts while its provider is down. (Its signing keys are asked for at logins:
they change.)
"""

import contextlib
import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torchroom.auth.endpoints import DiscoveryError, Endpoints, understood
from torchroom.settings import SettingError

FILE = "provider.json"
TIMEOUT_S = 10
SIZE_MAX = 1_000_000


def endpoints(url: str, data_dir: Path) -> Endpoints:
    """Return a provider's description, the one kept if it cannot be asked now.

    Raises:
        SettingError: It cannot be asked, and what is kept is not of this address.
    """
    path = data_dir / FILE
    try:
        found = understood(url, fetched(url))
    except DiscoveryError as error:
        kept = _kept(path)
        if kept is None or kept.discovery_url != url:
            raise SettingError(
                f"The identity provider at {url} {error}, and no earlier answer of it "
                "is kept: check the address, and that the hub's machine reaches it."
            ) from error
        return kept
    _keep(path, found)
    return found


def fetched(url: str) -> Any:
    """Return the document at an address.

    Raises:
        DiscoveryError: There is none.
    """
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - https or this machine
    try:
        with _OPENER.open(request, timeout=TIMEOUT_S) as answer:
            text = answer.read(SIZE_MAX + 1)
    except urllib.error.HTTPError as error:
        raise DiscoveryError(f"answers {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DiscoveryError(f"does not answer ({reason})") from error
    if len(text) > SIZE_MAX:
        raise DiscoveryError(f"answers with more than {SIZE_MAX} bytes")
    try:
        return json.loads(text)
    except ValueError as error:
        raise DiscoveryError("does not answer with JSON") from error


def _kept(path: Path) -> Endpoints | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        row = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(row[name]) for name in ("algorithms", "scopes")}
        return Endpoints(**{**row, **lists})
    return None


def _keep(path: Path, found: Endpoints) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(asdict(found)), encoding="utf-8")
    os.replace(draft, path)


class _StaysThere(urllib.request.HTTPRedirectHandler):
    """Follows nothing: what describes the provider must be at its own address."""

    def redirect_request(self, *_args: object, **_kwargs: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_StaysThere)

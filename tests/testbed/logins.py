"""Many people who log in: each with cookies of their own, through the real pages."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import requests

from testbed.login_hub import LoginHub, Visitor

N_BROWSERS = 48


@dataclass(frozen=True)
class Login:
    """One login.

    Attributes:
        took_s: From opening the hub to its home page, the provider's form included.
        error: What went wrong; "" if nothing did.
    """

    name: str
    took_s: float
    error: str


def log_in_all(hub: LoginHub, names: Sequence[str], *, over_s: float) -> list[Login]:
    """Log everybody in, each begun at their moment of a time; returns all in order.

    Args:
        hub: Where.
        names: Accounts of its provider.
        over_s: The time that the beginnings are spread over evenly; 0: all at once.
    """
    begin = time.monotonic()

    def one(number: int) -> Login:
        due = begin + over_s * number / len(names)
        time.sleep(max(0.0, due - time.monotonic()))
        return log_in(hub, names[number])

    n_browsers = len(names) if not over_s else N_BROWSERS
    with ThreadPoolExecutor(n_browsers) as pool:
        return list(pool.map(one, range(len(names))))


def log_in(hub: LoginHub, name: str) -> Login:
    """Log one person in with a fresh profile."""
    began = time.monotonic()
    error = ""
    try:
        page = Visitor().log_in(hub, name)
        if page.status_code != 200 or page.url != f"{hub.url}/hub/home":
            error = f"{page.status_code} at {page.url.partition('?')[0]}"
        elif name not in page.text:
            error = "the home page is not theirs"
    except requests.RequestException as broken:
        error = str(broken)
    return Login(name, time.monotonic() - began, error)


def percentile(logins: Sequence[Login], share: float) -> float:
    """How long a login took at most for this share of people, in seconds."""
    took = sorted(login.took_s for login in logins)
    return took[min(len(took) - 1, int(share * len(took)))]

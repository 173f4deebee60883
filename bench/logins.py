"""How a crowd logs in: python bench/logins.py [PEOPLE] [SECONDS].

200 people log in within a minute, spread evenly, each with a profile of their own: real
redirects and forms, through the proxy, the hub and a real OpenID provider (npm's
oidc-provider), all on this machine. Ends with 1 if anybody did not get in. Each run is
appended to .cache/bench/logins.jsonl.

Then people log in one after the other, in turns here and at a hub with oauthenticator's
GenericOAuthenticator as it comes (groups from the userinfo, PKCE, auth state). What
Torchroom does more: it checks the id_token, binds the name to the account, and reads
courses.toml. In turns, for what else the machine does is then the same for both. Takes
about two minutes.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from testbed.bare_hub import free_port
from testbed.identity import (
    CLIENT_ID,
    CLIENT_SECRET,
    IdentityProvider,
    identity_provider,
)
from testbed.login_hub import STUDENTS, LoginHub, login_hub
from testbed.logins import Login, log_in, log_in_all, percentile

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("TORCHROOM_TEST_CACHE", ROOT / ".cache"))
N_PEOPLE, SECONDS = 200, 60.0
N_FIRST = 5  # imports, connections and pages that are slow once
N_TURNS = 40
STOCK = """
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.command = {proxy!r}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.JupyterHub.services = [{{"name": "root", "api_token": "{root}"}}]
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.authenticator_class = "generic-oauth"
c.GenericOAuthenticator.oauth_callback_url = "http://127.0.0.1:{port}/hub/oauth_callback"
c.GenericOAuthenticator.username_claim = "preferred_username"
c.GenericOAuthenticator.scope = ["openid", "profile", "email", "groups"]
c.GenericOAuthenticator.manage_groups = True
c.GenericOAuthenticator.auth_state_groups_key = "oauth_user.groups"
c.GenericOAuthenticator.enable_auth_state = True
c.GenericOAuthenticator.auto_login = True
c.CryptKeeper.keys = ["{root}{root}"]
{more}
"""


def stock_lines(provider: IdentityProvider) -> str:
    """What is different on every machine."""
    traits = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "authorize_url": f"{provider.issuer}/auth",
        "token_url": f"{provider.issuer}/token",
        "userdata_url": f"{provider.issuer}/me",
        "allowed_groups": {STUDENTS},
    }
    lines = (f"c.GenericOAuthenticator.{name} = {traits[name]!r}" for name in traits)
    return "\n".join(lines)


def everybody(
    hub: LoginHub, provider: IdentityProvider, n: int, over_s: float
) -> list[Login]:
    """Log a class in within a time and print how it went."""
    names = [provider.account(f"student{number}", STUDENTS) for number in range(n)]
    began = time.monotonic()
    logins = log_in_all(hub, names, over_s=over_s)
    whole_s = time.monotonic() - began
    errors = [login for login in logins if login.error]
    print(f"{n} people in {whole_s:.1f} s: {len(errors)} errors, {spread(logins)}")
    for login in errors[:5]:
        print(f"    {login.name}: {login.error}")
    return logins


def in_turns(
    ours: LoginHub, stock: LoginHub, provider: IdentityProvider
) -> tuple[list[Login], list[Login]]:
    """Log people in one after the other, here and there, and print how it went.

    Each name's first login at the provider is here and there in turns.
    """
    logins: dict[str, list[Login]] = {ours.url: [], stock.url: []}
    hubs = [ours, stock]
    for number in range(N_FIRST + N_TURNS):
        name = provider.account(f"turn{number}", STUDENTS)
        for hub in hubs:
            logins[hub.url].append(log_in(hub, name))
        hubs.reverse()
    here, there = (logins[hub.url][N_FIRST:] for hub in (ours, stock))
    print(f"one at a time, Torchroom             {spread(here)}")
    print(f"one at a time, GenericOAuthenticator {spread(there)}")
    return here, there


def spread(logins: list[Login]) -> str:
    """How long logins took."""
    return "  ".join(
        f"{name} {percentile(logins, share):.3f} s"
        for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1))
    )


def main() -> int:
    """Measure; return the exit code."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else N_PEOPLE
    over_s = float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS  # noqa: PLR2004
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("ours", "stock"):
            (folder / part).mkdir()
        with (
            identity_provider(folder, *urls) as provider,
            login_hub(folder / "ours", provider, port=ports[0]) as ours,
        ):
            crowd = everybody(ours, provider, n, over_s)
            with login_hub(
                folder / "stock",
                port=ports[1],
                configuration=STOCK,
                more=stock_lines(provider),
            ) as stock:
                here, there = in_turns(ours, stock, provider)
    ratio = percentile(here, 0.5) / percentile(there, 0.5)
    print(f"p50 of Torchroom / p50 of GenericOAuthenticator: {ratio:.2f}")
    figures = {
        "people": n,
        "over_s": over_s,
        "errors": sum(bool(login.error) for login in crowd),
        "p50_s": round(percentile(crowd, 0.5), 4),
        "p95_s": round(percentile(crowd, 0.95), 4),
        "max_s": round(percentile(crowd, 1), 4),
        "ratio": round(ratio, 3),
    }
    (CACHE / "bench").mkdir(parents=True, exist_ok=True)
    with (CACHE / "bench" / "logins.jsonl").open("a") as file:
        file.write(json.dumps(figures) + "\n")
    return 1 if any(login.error for login in [*crowd, *here, *there]) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The public address: what is refused, and what follows from it."""

import subprocess
import sys
from pathlib import Path

import pytest
from torchroom import public
from torchroom.settings import SettingError

HUB = "https://hub.school.edu"
ROOT = Path(__file__).resolve().parents[2]


def of(url: str = "", **more: str) -> public.Public:
    """The public address for these variables."""
    return public.read({public.URL: url, **more})


def test_without_a_word_it_is_this_machine() -> None:
    """The proxy's port on the loopback, and JupyterHub guesses no address."""
    site = of(TORCHROOM_PORT="9000")
    assert (site.url, site.hub_url) == (
        "http://127.0.0.1:9000",
        "http://127.0.0.1:9000/hub/",
    )
    assert site.is_loopback
    assert not site.is_secure
    assert site.n_proxies == 1
    assert set(site.jupyterhub) == {"tornado_settings"}
    assert "secure" not in site.jupyterhub["tornado_settings"]["cookie_options"]


@pytest.mark.parametrize(
    ("url", "same"),
    [
        (HUB, HUB),
        (f"{HUB}/", HUB),
        ("https://Hub.School.EDU:443", HUB),
        (f"{HUB}:8443", f"{HUB}:8443"),
        ("https://xn--hb-hka.edu", "https://xn--hb-hka.edu"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
        ("http://localhost:8000/", "http://localhost:8000"),
    ],
)
def test_addresses_are_read_as_people_write_them(url: str, same: str) -> None:
    """Capital letters, a slash at the end, the scheme's own port."""
    assert of(url).url == same


@pytest.mark.parametrize(
    "url",
    [
        "hub.school.edu",
        "ftp://hub.school.edu",
        "https://",
        "https://a b",
        "https://hub..edu",
        "https://hub.school.edu.",
        "https://-hub.edu",
        "https://hub_1.edu",
        "https://1.2.3.400",
        f"{HUB}:0",
        f"{HUB}:70000",
        f"{HUB}/jupyter",
        f"{HUB}?x",
        f"{HUB}#x",
        "https://me:secret@hub.school.edu",
        "https://hub.school.edu`{$X}",
        "https://hub.school.edu\n",
        "https://hüb.edu",
        "http://hub.school.edu",
        "http://10.0.0.1",
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str) -> None:
    """In a sentence that names the variable."""
    with pytest.raises(SettingError, match=public.URL):
        of(url)


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.1.2.3", True),
        ("http://[::1]:8000", True),
        ("https://localhost", True),
        ("https://hub.localhost", True),
        ("https://notlocalhost", False),
        ("https://localhost.school.edu", False),
        ("https://10.0.0.1", False),
        (HUB, False),
    ],
)
def test_only_this_machine_is_this_machine(url: str, *, is_loopback: bool) -> None:
    """On it alone passwords of the local login are enough."""
    assert of(url).is_loopback is is_loopback


def test_with_https_cookies_are_for_https_only() -> None:
    """All of them; and JupyterHub guesses neither scheme nor host."""
    site = of(f"{HUB}:8443")
    told = site.jupyterhub
    assert told["public_url"] == f"{HUB}:8443/"
    for name in ("cookie_options", "xsrf_cookie_kwargs"):
        assert told["tornado_settings"][name]["secure"] is True
        assert told["tornado_settings"][name]["samesite"] == "Lax"
    assert site.n_proxies == 2
    assert "subdomain_host" not in told
    assert "cookie_host_prefix_enabled" not in told  # servers share the host


def test_with_subdomains_cookies_cannot_be_planted() -> None:
    """Their names begin with __Host-."""
    told = of(HUB, TORCHROOM_SUBDOMAINS="1").jupyterhub
    assert told["subdomain_host"] == HUB
    assert told["cookie_host_prefix_enabled"] is True


@pytest.mark.parametrize("url", ["", "http://localhost:8000", "https://10.0.0.1"])
def test_subdomains_need_https_and_a_name(url: str) -> None:
    """No address has names below it."""
    with pytest.raises(SettingError, match=public.SUBDOMAINS):
        of(url, TORCHROOM_SUBDOMAINS="1")


def read_tls(url: str, **more: str) -> public.Tls:
    """Where the certificate comes from."""
    env = {public.URL: url, **more}
    return public.read_tls(env, public.read(env))


def test_without_a_word_there_is_no_tls_proxy() -> None:
    """The school may have one of its own."""
    assert read_tls("").mode == "off"
    assert read_tls(HUB).mode == "off"


def test_a_certificate_comes_from_lets_encrypt_or_from_files() -> None:
    """The port is the address's, unless it is set."""
    got = read_tls(f"{HUB}:8443", TORCHROOM_TLS="acme", TORCHROOM_ACME_EMAIL="a@b.edu")
    assert (got.mode, got.http_port, got.https_port) == ("acme", 80, 8443)
    assert (got.email, got.directory) == ("a@b.edu", public.LETS_ENCRYPT)
    own = read_tls(
        HUB,
        TORCHROOM_TLS="files",
        TORCHROOM_TLS_CERT="c.pem",
        TORCHROOM_TLS_KEY="k.pem",
        TORCHROOM_HTTP_PORT="8080",
        TORCHROOM_HTTPS_PORT="444",
    )
    assert (own.http_port, own.https_port) == (8080, 444)
    assert (own.certificate, own.key) == (Path("c.pem"), Path("k.pem"))


@pytest.mark.parametrize(
    ("url", "more", "named"),
    [
        (HUB, {"TORCHROOM_TLS": "yes"}, "TORCHROOM_TLS is"),
        ("", {"TORCHROOM_TLS": "acme"}, public.URL),
        ("http://localhost", {"TORCHROOM_TLS": "files"}, public.URL),
        (HUB, {"TORCHROOM_TLS": "files"}, "TORCHROOM_TLS_CERT and TORCHROOM_TLS_KEY"),
        (HUB, {"TORCHROOM_TLS": "files", "TORCHROOM_TLS_CERT": "c"}, public.KEY),
        (HUB, {"TORCHROOM_TLS": "acme", "TORCHROOM_ACME_EMAIL": "me"}, "ACME_EMAIL"),
        (
            HUB,
            {"TORCHROOM_TLS": "acme", "TORCHROOM_ACME_DIRECTORY": "http://ca"},
            public.ACME_DIRECTORY,
        ),
        (HUB, {"TORCHROOM_TLS": "acme", "TORCHROOM_SUBDOMAINS": "1"}, "TLS=files"),
        ("https://10.0.0.1", {"TORCHROOM_TLS": "acme"}, "the whole internet knows"),
        ("https://hub", {"TORCHROOM_TLS": "acme"}, "the whole internet knows"),
        ("https://hub.localhost", {"TORCHROOM_TLS": "acme"}, "whole internet"),
        (HUB, {"TORCHROOM_TLS": "acme", "TORCHROOM_HTTP_PORT": "x"}, public.HTTP_PORT),
    ],
)
def test_what_cannot_work_is_refused(
    url: str, more: dict[str, str], named: str
) -> None:
    """Before anything starts, in a sentence."""
    with pytest.raises(SettingError, match=named):
        read_tls(url, **more)


def test_it_needs_nothing_but_python() -> None:
    """``make up`` reads the same settings, on a machine that has nothing else."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'hub')!r}); "
    for module in ("torchroom.public", "torchroom.settings"):
        subprocess.run([sys.executable, "-ISc", f"{code}import {module}"], check=True)

"""This machine's package settings, made into BuildKit secrets.

A build must reach the same mirrors as the machine does, and nothing of them may stay in
an image. So each becomes a small file, mounted for one RUN step at /run/secrets/ID:

    pipconf   pip's settings: index, find-links by URL, CA bundle, proxy
    aptconf   apt's settings: the mirror as its only source list, proxies
    aptlist   that source list
    npmrc     npm's settings: registry, credentials, CA bundle
    ca        the CA bundle

Folders of wheels are not secrets but part of the build context: see wheels.py.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

SECRET = "/run/secrets"  # noqa: S105 - where BuildKit mounts them
WHEELS = "/mnt/wheels"
DEBIAN = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
_LISTS = {"find-links", "extra-index-url", "trusted-host"}
_PASSED = (
    "index-url",
    "extra-index-url",
    "trusted-host",
    "proxy",
    "timeout",
    "no-index",
)


@dataclass(frozen=True)
class PipSettings:
    """pip's settings in force, with folders of this machine kept apart."""

    values: Mapping[str, tuple[str, ...]]
    folders: tuple[Path, ...]  # find-links that are folders here
    indexes: tuple[Path, ...]  # file:// indexes: a folder per project
    ca: Path | None


def pip_settings(env: Mapping[str, str] = os.environ) -> PipSettings:
    """Read pip's settings as pip does: files first, then the environment."""
    values = _from_files(env)
    for name in (*_PASSED, "find-links", "cert"):
        given = env.get("PIP_" + name.upper().replace("-", "_"))
        if given is None and name == "timeout":
            given = env.get("PIP_DEFAULT_TIMEOUT")
        if given is not None:
            values[name] = given
    listed = {
        n: tuple(v.split() if n in _LISTS else [v]) for n, v in values.items() if v
    }
    indexes, urls = _split(listed.get("extra-index-url", ()))
    folders, links = _split(listed.get("find-links", ()))
    primary = _split(listed.get("index-url", ()))[0]
    kept = {n: v for n, v in listed.items() if n in _PASSED}
    kept["extra-index-url"] = tuple(urls)
    kept["find-links"] = tuple(links)
    if primary:
        del kept["index-url"]
    cert = listed.get("cert", ("",))[0]
    return PipSettings(
        values={n: v for n, v in kept.items() if v},
        folders=tuple(f for f in folders if f.is_dir()),
        indexes=tuple(f for f in [*primary, *indexes] if f.is_dir()),
        ca=ca_bundle(cert, env),
    )


def ca_bundle(first: str = "", env: Mapping[str, str] = os.environ) -> Path | None:
    """The CA bundle that this machine trusts."""
    names = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
    given = [first, *(env.get(name, "") for name in names)]
    for path in [*given, "/etc/ssl/certs/ca-certificates.crt"]:
        if path and Path(path).is_file():
            return Path(path)
    return None


def pip_conf(settings: PipSettings, *, wheels: bool, torch_index: str = "") -> str:
    """Pip's settings as a step of the build sees them."""
    values = {name: list(value) for name, value in settings.values.items()}
    if torch_index:
        values.setdefault("extra-index-url", []).append(torch_index)
    if wheels:
        values.setdefault("find-links", []).append(WHEELS)
    if settings.ca:
        values["cert"] = [f"{SECRET}/ca"]
    lines = [f"{name} = {' '.join(value)}" for name, value in values.items() if value]
    return "\n".join(["[global]", *lines, ""])


def apt_secrets(release: str, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Secrets aptconf and aptlist: this machine's Debian mirror, for `release`."""
    main, security = debian_mirrors()
    lines = [
        f"deb {main} {release} main",
        f"deb {main} {release}-updates main",
        f"deb {security} {release}-security main",
    ]
    conf = [
        f'Dir::Etc::sourcelist "{SECRET}/aptlist";',
        'Dir::Etc::sourceparts "/dev/null";',
    ]
    if main.startswith("https:"):
        conf.append(f'Acquire::https::CAInfo "{SECRET}/ca";')
    conf += _apt_proxies(env)
    return {
        "aptlist": "\n".join(lines) + "\n",
        "aptconf": "\n".join(conf) + "\n",
    }


def debian_mirrors(etc: Path = Path("/etc/apt")) -> tuple[str, str]:
    """The Debian archive and its security archive as this machine reaches them."""
    main, security = "", ""
    for uri in _apt_uris(etc):
        if uri.endswith("/debian-security"):
            security = security or uri
        elif uri.endswith("/debian"):
            main = main or uri
    return main or DEBIAN, security or SECURITY


def npmrc(env: Mapping[str, str] = os.environ) -> str:
    """Npm's settings as a step of the build sees them."""
    kept = re.compile(
        r"^(registry|proxy|https-proxy|noproxy|strict-ssl|//.*:_\w+|@.*:registry)\s*="
    )
    files = [
        Path("/etc/npmrc"),
        Path("/usr/etc/npmrc"),
        Path(env.get("NPM_CONFIG_USERCONFIG") or Path.home() / ".npmrc"),
    ]
    lines = [
        line.strip()
        for path in files
        if path.is_file()
        for line in path.read_text(encoding="utf-8").splitlines()
        if kept.match(line.strip())
    ]
    for name in ("registry", "proxy", "https_proxy"):
        given = env.get(f"NPM_CONFIG_{name.upper()}") or env.get(f"npm_config_{name}")
        if given:
            lines.append(f"{name.replace('_', '-')}={given}")
    if ca_bundle(env.get("NODE_EXTRA_CA_CERTS", ""), env):
        lines.append(f"cafile={SECRET}/ca")
    return "\n".join([*lines, "audit=false", "fund=false", "update-notifier=false", ""])


def _from_files(env: Mapping[str, str]) -> dict[str, str]:
    home = Path(env.get("HOME") or Path.home())
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    files = [
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
    ]
    files += [config / "pip/pip.conf", Path(env.get("PIP_CONFIG_FILE") or os.devnull)]
    values: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, OSError):
            continue  # pip itself complains about it soon enough
        for section in ("global", "install"):
            if parser.has_section(section):
                pairs = parser.items(section)
                values |= {name.replace("_", "-"): value for name, value in pairs}
    if "default-timeout" in values:
        values.setdefault("timeout", values["default-timeout"])
    return values


def _split(places: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Folders of this machine, and addresses."""
    folders, urls = [], []
    for place in places:
        if place.startswith("file://"):
            folders.append(Path(unquote(urlsplit(place).path)))
        elif "://" in place:
            urls.append(place)
        else:
            folders.append(Path(place).expanduser())
    return folders, urls


def _apt_uris(etc: Path) -> list[str]:
    uris: list[str] = []
    lists = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    for file in lists:
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        if file.suffix == ".sources":
            found = re.findall(
                r"^URIs:\s*(.+)$", text, flags=re.MULTILINE | re.IGNORECASE
            )
        else:
            found = re.findall(
                r"^deb\s+(?:\[[^\]]*\]\s*)?(\S+)", text, flags=re.MULTILINE
            )
        uris += [uri.rstrip("/") for line in found for uri in line.split()]
    return [uri for uri in uris if uri.startswith(("http://", "https://"))]


def _apt_proxies(env: Mapping[str, str]) -> list[str]:
    lines = []
    for file in sorted(Path("/etc/apt/apt.conf.d").glob("*")):
        text = (
            file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        )
        lines += re.findall(
            r"^Acquire::https?::Proxy\b.*;", text, flags=re.MULTILINE | re.IGNORECASE
        )
    if not lines:
        for scheme in ("http", "https"):
            if proxy := env.get(f"{scheme}_proxy") or env.get(
                f"{scheme.upper()}_PROXY"
            ):
                lines.append(f'Acquire::{scheme}::Proxy "{proxy}";')
    return lines

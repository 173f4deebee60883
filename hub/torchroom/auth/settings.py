"""How people log in, from the environment: read once, checked.

An empty variable is one that is not set: docker compose hands on all it knows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from torchroom.auth.addresses import is_trustworthy
from torchroom.settings import SettingError, one_of, read_text, within

LOGIN, COURSES = "TORCHROOM_LOGIN", "TORCHROOM_COURSES"
OAUTH = "TORCHROOM_OAUTH_"
LOCAL = "local"
PROVIDERS = ("oidc", "github", "gitlab", "google", "microsoft", "cilogon")
CLIENT_ID, SECRET_FILE = f"{OAUTH}CLIENT_ID", f"{OAUTH}CLIENT_SECRET_FILE"
DISCOVERY_URL, URL = f"{OAUTH}DISCOVERY_URL", f"{OAUTH}URL"
TENANT, DOMAIN, IDP = f"{OAUTH}TENANT", f"{OAUTH}DOMAIN", f"{OAUTH}IDP"
USERNAME_CLAIM, GROUPS_CLAIM = f"{OAUTH}USERNAME_CLAIM", f"{OAUTH}GROUPS_CLAIM"
SCOPES, TRUST_EMAIL = f"{OAUTH}SCOPES", f"{OAUTH}TRUST_EMAIL"
RECHECK_MINUTES, OFFLINE_HOURS = f"{OAUTH}RECHECK_MINUTES", f"{OAUTH}OFFLINE_HOURS"
WELL_KNOWN = "/.well-known/openid-configuration"
MINUTE_S, HOUR_S = 60, 3600
TEXT_MAX = 500
_A_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+")

_ONLY = {  # variable -> the providers that it is for
    DISCOVERY_URL: ("oidc",),
    URL: ("github", "gitlab"),
    TENANT: ("microsoft",),
    DOMAIN: ("google",),
    IDP: ("cilogon",),
    GROUPS_CLAIM: tuple(name for name in PROVIDERS if name != "github"),
}
_NEEDED = {"oidc": DISCOVERY_URL, "microsoft": TENANT, "cilogon": IDP}
_KNOWN = {
    *(CLIENT_ID, SECRET_FILE, USERNAME_CLAIM, SCOPES),
    *(TRUST_EMAIL, RECHECK_MINUTES, OFFLINE_HOURS, *_ONLY),
}


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """How people log in.

    Attributes:
        provider: "local", or one of `PROVIDERS`; all else but `courses_file` is
            empty with "local".
        courses_file: courses.toml, if there is one.
        client_id: The hub's name at the provider.
        client_secret: And its password there.
        discovery_url: oidc: where the provider describes itself.
        url: github, gitlab: the address of a server of one's own; "" is the public one.
        tenant: microsoft: the directory's ID.
        domain: google: the only domain whose accounts are taken; "" takes all.
        idps: cilogon: the only institutions whose accounts are taken.
        username_claim: Where a name is; "" is the provider's usual claim.
        groups_claim: Where groups are; "" is the provider's usual claim.
        scopes: What is asked for beside the provider's usual scopes.
        trusts_email: An e-mail address is its account's own even if the provider does
            not say that it verified it.
        recheck_s: Somebody's groups are asked for again after this time.
        offline_s: How long an answer counts when no newer one can be had.
    """

    provider: str = LOCAL
    courses_file: Path | None = None
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    discovery_url: str = ""
    url: str = ""
    tenant: str = ""
    domain: str = ""
    idps: tuple[str, ...] = ()
    username_claim: str = ""
    groups_claim: str = ""
    scopes: tuple[str, ...] = ()
    trusts_email: bool = False
    recheck_s: int = 5 * MINUTE_S
    offline_s: int = 12 * HOUR_S

    @property
    def is_local(self) -> bool:
        """Whether people log in with the hub's own passwords."""
        return self.provider == LOCAL


def read(env: Mapping[str, str]) -> LoginSettings:
    """Return how people log in.

    Raises:
        SettingError: A value is missing, wrong, or for another way to log in.
    """
    given = sorted(name for name in env if name.startswith(OAUTH) and env[name])
    if given and not env.get(LOGIN):
        raise SettingError(
            f"{given[0]} is set, so {LOGIN} must say who knows the people: "
            f"{', '.join(PROVIDERS)}."
        )
    provider = one_of(env, LOGIN, (LOCAL, *PROVIDERS))
    if provider == LOCAL and given:
        raise SettingError(
            f"{LOGIN} is {LOCAL}, but {given[0]} is set: with an identity provider "
            f"nobody logs in with the hub's own passwords. Set {LOGIN} to "
            f"{', '.join(PROVIDERS)}, or remove {given[0]}."
        )
    courses = _courses(env)
    if provider == LOCAL:
        return LoginSettings(courses_file=courses)
    _refuse_strangers(provider, given)
    if courses is None:
        raise SettingError(
            f"{COURSES} is not set: without a courses.toml nobody is in a course, so "
            "nobody could log in. Copy courses.example.toml and name it there."
        )
    return LoginSettings(
        provider=provider,
        courses_file=courses,
        client_id=_text(env, CLIENT_ID, needed=True),
        client_secret=_secret(env),
        discovery_url=_discovery_url(env),
        url=_url(env, URL).rstrip("/"),
        tenant=_tenant(env),
        domain=_domain(env),
        idps=_words(env, IDP, ","),
        username_claim=_text(env, USERNAME_CLAIM),
        groups_claim=_text(env, GROUPS_CLAIM),
        scopes=_words(env, SCOPES, " "),
        trusts_email=one_of(env, TRUST_EMAIL, ("0", "1")) == "1",
        recheck_s=MINUTE_S * within(env, RECHECK_MINUTES, 5, 1, 60),
        offline_s=HOUR_S * within(env, OFFLINE_HOURS, 12, 1, 168),
    )


def _refuse_strangers(provider: str, given: list[str]) -> None:
    for name in given:
        if name not in _KNOWN:
            known = ", ".join(sorted(_KNOWN))
            raise SettingError(f"{name} is not known. Known: {known}.")
        whose = _ONLY.get(name, (provider,))
        if provider not in whose:
            raise SettingError(
                f"{name} is for {LOGIN}={' or '.join(whose)}, and {LOGIN} is "
                f"{provider}: remove it."
            )
    needed = _NEEDED.get(provider)
    if needed is not None and needed not in given:
        raise SettingError(f"{needed} is not set; {LOGIN}={provider} needs it.")


def _courses(env: Mapping[str, str]) -> Path | None:
    value = env.get(COURSES)
    if not value:
        return None
    path = Path(value)
    if not path.exists():
        raise SettingError(f"{COURSES} is {value!r}; there is no such file.")
    # An empty mount of compose stands for "none": a device, not a file.
    return None if path.is_char_device() else path


def _text(env: Mapping[str, str], name: str, *, needed: bool = False) -> str:
    value = (env.get(name) or "").strip()
    if needed and not value:
        raise SettingError(f"{name} is not set; {LOGIN}={env[LOGIN]} needs it.")
    if not value.isprintable() or len(value) > TEXT_MAX:
        raise SettingError(f"{name} must be one line of at most {TEXT_MAX} characters.")
    return value


def _words(env: Mapping[str, str], name: str, between: str) -> tuple[str, ...]:
    words = (word.strip() for word in _text(env, name).split(between))
    return tuple(word for word in words if word)


def _tenant(env: Mapping[str, str]) -> str:
    tenant = _text(env, TENANT).lower()
    if tenant and not (len(tenant) == 36 and set(tenant) <= set("0123456789abcdef-")):  # noqa: PLR2004
        raise SettingError(
            f"{TENANT} is {tenant!r}; it must be the directory's ID, 36 characters "
            "like 00000000-0000-0000-0000-000000000000: with a domain's name, "
            "'common' or 'organizations' others than your people could log in."
        )
    return tenant


def _domain(env: Mapping[str, str]) -> str:
    domain = _text(env, DOMAIN).lower()
    if domain and not _A_DOMAIN.fullmatch(domain):
        raise SettingError(
            f"{DOMAIN} is {domain!r}; it must be one domain, like school.edu."
        )
    return domain


def _discovery_url(env: Mapping[str, str]) -> str:
    url = _url(env, DISCOVERY_URL)
    if url and not url.endswith(WELL_KNOWN):
        raise SettingError(
            f"{DISCOVERY_URL} is {url!r}; it must end with {WELL_KNOWN}."
        )
    return url


def _url(env: Mapping[str, str], name: str) -> str:
    value = _text(env, name)
    if value and not is_trustworthy(value):
        raise SettingError(
            f"{name} is {value!r}; it must be an address that begins with https:// "
            "(http:// is for a provider on this machine only)."
        )
    if value and (urlsplit(value).query or urlsplit(value).fragment):
        raise SettingError(f"{name} is {value!r}; it must have no ? and no #.")
    return value


def _secret(env: Mapping[str, str]) -> str:
    value = env.get(SECRET_FILE)
    if not value:
        raise SettingError(
            f"{SECRET_FILE} is not set; it names the file with the client secret that "
            "the provider gave you."
        )
    secret = read_text(SECRET_FILE, value)
    if not secret or not secret.isprintable():
        raise SettingError(f"{SECRET_FILE}: {value} has not one line with the secret.")
    return secret

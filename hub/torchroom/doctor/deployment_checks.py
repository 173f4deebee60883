"""Checks of the deployment's settings: who gets in, and how safe the way is. Pure."""

from datetime import datetime, timedelta

from torchroom import membership
from torchroom.doctor.gpu_checks import ON_HOST
from torchroom.doctor.model import Deployment, Finding, fail, ok, unknown, warn
from torchroom.uids import HUB

RENEW_WITHIN = timedelta(days=14)
HTTPS = "docs/https.md says how: TORCHROOM_TLS=acme, or files of your own."


def check_login(deployment: Deployment) -> Finding:
    """Look whether the way in fits where the hub is reached."""
    name, login, public = "login", deployment.login, deployment.public
    how = "docs/login.md lists the providers and what each of them needs."
    if login is None:
        return fail(name, deployment.login_error, how)
    if not login.is_local:
        return ok(name, f"Login by {login.provider}.")
    if public is None or not public.is_loopback:
        where = public.url if public else "an address that cannot be used"
        return fail(
            name,
            f"The hub is published at {where} with the local login, which is one "
            "password for everybody.",
            f"Set TORCHROOM_LOGIN to the school's provider; {how}",
        )
    return ok(name, "Local login, for this machine only.")


def check_allowed(deployment: Deployment) -> list[Finding]:
    """Look whether the right people are let in: nobody by accident, and somebody."""
    name, login = "allow", deployment.login
    how = "Write it (courses.example.toml shows how) and name it in TORCHROOM_COURSES."
    if deployment.courses_error:
        return [fail(name, deployment.courses_error, how)]
    if login is None:
        return [unknown(name, "The login cannot be used.", "See the check `login`.")]
    if deployment.courses is None:  # another login cannot be set without it
        return [ok(name, "Whoever has the local password; there is no courses.toml.")]
    try:
        found = membership.read(deployment.courses)
    except membership.MembershipError as error:
        return [fail(name, str(error), "Mend courses.toml.")]
    findings = []
    if found.is_empty and not login.is_local:
        findings.append(fail(name, "courses.toml names nobody.", how))
    if found.admins == membership.Roll() and not login.is_local:
        findings.append(
            warn(name, "courses.toml has no admin.", 'Add admins = ["YOUR-NAME"].')
        )
    findings += [
        warn(
            name,
            f"The course {course.name} has no instructor.",
            "Add instructors or instructor_groups, or leave its tokens to admins.",
        )
        for course in found.courses.values()
        if course.instructors == membership.Roll()
    ]
    return findings or [
        ok(name, f"Members of {len(found.courses)} courses, and admins.")
    ]


def check_tls(deployment: Deployment, now: datetime) -> Finding:
    """Look whether the public address has HTTPS that browsers accept."""
    name, public = "tls", deployment.public
    if public is None:
        return fail(name, deployment.public_error, HTTPS)
    if not public.is_secure:
        return ok(name, "Only this machine reaches the hub; it needs no TLS.")
    url, answer = public.url, deployment.answer
    if answer is None:
        return unknown(name, f"{url} was not asked.", ON_HOST)
    if answer.is_untrusted:
        return fail(
            name,
            f"Browsers refuse {url}: {answer.error}",
            f"{HTTPS} If your school signs for itself, this machine must know, too: "
            "update-ca-certificates.",
        )
    if answer.error:
        return fail(
            name,
            f"{url} does not answer: {answer.error}",
            "Look at `make up`, the name in DNS and the machine's firewall.",
        )
    ends = answer.certificate_ends
    if ends is not None and ends - now < RENEW_WITHIN:
        return warn(
            name,
            f"The certificate of {url} ends on {ends:%Y-%m-%d}.",
            "Renew it, then `make up`; with TORCHROOM_TLS=acme see why it was not "
            "renewed: docker logs torchroom-tls-1",
        )
    if not answer.has_hsts:
        return warn(
            name,
            f"{url} does not tell browsers to keep to HTTPS (HSTS).",
            "Let the TLS proxy send Strict-Transport-Security.",
        )
    until = f" until {ends:%Y-%m-%d}" if ends else ""
    return ok(name, f"{url} has a good certificate{until}, and HSTS.")


def check_cookies(deployment: Deployment) -> Finding:
    """Look whether login cookies may travel unencrypted."""
    name, public, answer = "cookies", deployment.public, deployment.answer
    if public is not None and not public.is_secure:
        return ok(name, "Cookies stay on this machine.")
    if answer is None or not answer.n_cookies:
        return unknown(
            name, "No cookie was seen.", "Run it when the hub is up and `tls` is ok."
        )
    if answer.open_cookies:
        return fail(
            name,
            f"These cookies lack Secure: {', '.join(answer.open_cookies)}.",
            "Let the TLS proxy set X-Forwarded-Proto: https.",
        )
    return ok(name, "Cookies travel by HTTPS only.")


def check_subdomains(deployment: Deployment) -> Finding:
    """Look whether users' pages are kept apart in the browser."""
    name, public = "subdomains", deployment.public
    if public is None:
        return fail(name, deployment.public_error, HTTPS)
    if public.subdomains:
        return ok(name, "Each user's pages have a host name of their own.")
    if public.is_loopback:
        return ok(name, "Not needed on this machine alone.")
    return warn(
        name,
        "All users' pages share one host name: a page that one user makes can act for "
        "another who opens it.",
        "TORCHROOM_SUBDOMAINS=1 with a wildcard name and certificate (docs/https.md).",
    )


def check_settings(deployment: Deployment) -> list[Finding]:
    """Look whether `make up` takes the settings."""
    name = "settings"
    if deployment.refused is None:
        return [unknown(name, "The host's .env cannot be seen here.", ON_HOST)]
    refused = [fail(name, says, fix) for says, fix in deployment.refused]
    return refused or [ok(name, "`make up` takes the settings.")]


def check_secrets(deployment: Deployment) -> Finding:
    """Look whether others on the machine can read secrets."""
    name = "secrets"
    if deployment.open_files:
        files = " ".join(deployment.open_files)
        return fail(
            name,
            f"Everybody on this machine may read {files}.",
            f"chmod o-rwx {files} (and chgrp {HUB} what .env names: the hub reads it)",
        )
    return ok(name, "No secret is readable for everybody.")

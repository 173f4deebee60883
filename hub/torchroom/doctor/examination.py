"""All checks in the order in which people should read them, and what they amount to."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime

from torchroom.doctor import deployment_checks as deployed
from torchroom.doctor import machine_checks as machines
from torchroom.doctor.gpu_checks import WITH_DRIVER, check_driver
from torchroom.doctor.model import Deployment, Finding, Level, Machine

VERSION = 1
"""Of the JSON; goes up when a key goes away or changes its meaning."""
MARKS = {Level.OK: "ok", Level.UNKNOWN: "?", Level.WARN: "warn", Level.FAIL: "FAIL"}


def examine(
    machine: Machine, deployment: Deployment, now: datetime
) -> tuple[Finding, ...]:
    """Return what every check found; never empty."""
    found = [
        machines.check_engine(machine),
        machines.check_seccomp(machine),
        machines.check_exposure(machine),
        check_driver(machine),
    ]
    driver = machine.driver
    if driver is not None and driver.version is not None and driver.gpus:
        found += [check(machine, driver) for check in WITH_DRIVER]
    found += [
        *machines.check_disks(machine),
        machines.check_shm(machine),
        machines.check_clock(machine),
        *machines.check_services(machine),
        machines.check_isolation(machine),
        machines.check_vsock(machine),
        machines.check_addresses(machine, deployment),
        machines.check_namesake(machine),
        *deployed.check_settings(deployment),
        deployed.check_login(deployment),
        *deployed.check_allowed(deployment),
        deployed.check_tls(deployment, now),
        deployed.check_cookies(deployment),
        deployed.check_subdomains(deployment),
        deployed.check_secrets(deployment),
    ]
    return tuple(found)


def exit_status(findings: Iterable[Finding], *, is_strict: bool) -> int:
    """Return 1 if something failed (strict: or is not surely well), else 0."""
    bad = {Level.FAIL, Level.WARN, Level.UNKNOWN} if is_strict else {Level.FAIL}
    return int(any(finding.level in bad for finding in findings))


def as_text(findings: Sequence[Finding]) -> str:
    """Return one line per finding, and its fix below it; a sum at the end."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        head = f"{MARKS[finding.level]:<5}{finding.check:<{width + 2}}"
        lines.append(head + finding.says)
        if finding.fix:
            lines.append(" " * len(head) + f"-> {finding.fix}")
    n = {level: sum(f.level is level for f in findings) for level in Level}
    lines += [
        "",
        f"{n[Level.OK]} ok, {n[Level.WARN]} to look at, {n[Level.FAIL]} to mend, "
        f"{n[Level.UNKNOWN]} unknown.",
    ]
    return "\n".join(lines)


def as_json(findings: Sequence[Finding], now: datetime) -> str:
    """Return the findings for programs."""
    found = [asdict(finding) for finding in findings]
    return json.dumps(
        {"version": VERSION, "at": now.isoformat(), "findings": found}, indent=2
    )

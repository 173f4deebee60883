"""Every check of the doctor: what it passes, what it finds, and that it says a fix."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from torchroom import public
from torchroom.auth.settings import LoginSettings
from torchroom.doctor import deployment_checks as deployed
from torchroom.doctor import examination, gpu_checks, machine_checks
from torchroom.doctor.model import (
    Answer,
    CdiSpec,
    Container,
    Deployment,
    Disk,
    Driver,
    Engine,
    Finding,
    Gpu,
    Level,
    Machine,
)
from torchroom.doctor.versions import is_below, parse

NOW = datetime(2026, 11, 22, tzinfo=UTC)
GIB = 1 << 30
GPUS = (Gpu("GPU-a", "H200", True), Gpu("GPU-b", "H200", True))
DRIVER = Driver("580.95.05", GPUS)
CDI = CdiSpec(
    "/etc/cdi/nvidia.yaml",
    frozenset({"GPU-a", "GPU-b", "all"}),
    frozenset({"580.95.05"}),
)
ENGINE = Engine(
    "28.2.0",
    runtimes=frozenset({"runc", "nvidia"}),
    cgroup_driver="systemd",
    cdi_devices=frozenset({"nvidia.com/gpu=GPU-a"}),
    root_dir="/var/lib/docker",
    security=("name=seccomp,profile=builtin",),
    containers=(
        Container("hub-1", "hub", health="healthy"),
        Container("t-ada", shm_bytes=4 * GIB),
    ),
    is_network_closed=True,
)
HEALTHY = Machine(
    n_pci_gpus=2,
    driver=DRIVER,
    toolkit="1.20.0",
    accepts_env=False,
    cdi=(CDI,),
    has_char_links=True,
    engine=ENGINE,
    is_engine_open=False,
    disks=(Disk("images and homes", "/var/lib/docker", 100 * GIB, 200 * GIB, 10**6),),
    is_clock_synchronised=True,
    filters_bridges=True,
    namesake="",
)
COURSES = """
admins = ["ada"]
[course.cs101]
student_groups = ["cs101"]
instructors = ["prof"]
"""
SITE = "https://hub.example.org"
LOCAL = LoginSettings()
SAFE = Deployment(
    login=LoginSettings(provider="oidc"),
    public=public.read({"TORCHROOM_PUBLIC_URL": SITE, "TORCHROOM_SUBDOMAINS": "1"}),
    courses=COURSES,
    answer=Answer(certificate_ends=NOW + timedelta(days=60), has_hsts=True),
)


def one(machine: Machine, check: str) -> Finding:
    """The worst that a check finds on a machine."""
    return worst(examination.examine(machine, SAFE, NOW), check)


def of(deployment: Deployment, check: str) -> Finding:
    """The worst that a check finds in settings."""
    return worst(examination.examine(HEALTHY, deployment, NOW), check)


def worst(findings: tuple[Finding, ...], check: str) -> Finding:
    order = list(Level)
    found = [finding for finding in findings if finding.check == check]
    return max(found, key=lambda finding: order.index(finding.level))


def with_engine(**changes: object) -> Machine:
    return replace(HEALTHY, engine=replace(ENGINE, **changes))  # type: ignore[arg-type]


def test_a_good_machine_passes_every_check() -> None:
    findings = examination.examine(HEALTHY, SAFE, NOW)
    assert {finding.level for finding in findings} == {Level.OK}, findings
    assert examination.exit_status(findings, is_strict=True) == 0


def test_the_docs_list_every_check() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "doctor.md"
    listed = re.findall(r"^\| `([\w-]+)` \|", page.read_text(), re.MULTILINE)
    checks = [finding.check for finding in examination.examine(HEALTHY, SAFE, NOW)]
    assert listed == checks


def bad_machines() -> Iterator[tuple[str, Machine, str, Level, str]]:
    """What is wrong, the machine, who finds it, how bad it is, and a word it says."""
    yield "no engine", replace(HEALTHY, engine=None, engine_error="refused."), \
        "engine", Level.FAIL, "refused"  # fmt: skip
    yield "old engine", with_engine(version="19.03.5"), "engine", Level.FAIL, "old"
    yield "odd engine", with_engine(version="dev"), "engine", Level.FAIL, "dev"
    yield "no limits", with_engine(warnings=("WARNING: No memory limit support",)), \
        "engine", Level.FAIL, "limit"  # fmt: skip
    yield "no seccomp", with_engine(security=()), "seccomp", Level.FAIL, "filter"
    yield "unconfined", with_engine(security=("name=seccomp,profile=unconfined",)), \
        "seccomp", Level.FAIL, "filter"  # fmt: skip
    yield "open engine", replace(HEALTHY, is_engine_open=True), \
        "engine-tcp", Level.FAIL, "2375"  # fmt: skip
    yield "no driver", replace(HEALTHY, driver=Driver(None)), \
        "driver", Level.FAIL, "without"  # fmt: skip
    yield "driver silent", replace(HEALTHY, driver=Driver(None, error="NVML: boo.")), \
        "driver", Level.FAIL, "boo"  # fmt: skip
    yield "a GPU is missing", replace(HEALTHY, n_pci_gpus=3), \
        "driver", Level.FAIL, "3 are on the bus"  # fmt: skip
    off = replace(DRIVER, gpus=(Gpu("GPU-a", "T4", False), GPUS[1]))
    yield "not persistent", replace(HEALTHY, driver=off), \
        "persistence", Level.WARN, "1 of 2"  # fmt: skip
    yield "no toolkit", replace(HEALTHY, toolkit=""), "toolkit", Level.FAIL, "not inst"
    yield "toolkit 1.17.7", replace(HEALTHY, toolkit="1.17.7"), \
        "toolkit", Level.FAIL, "CVE-2025-23266"  # fmt: skip
    yield "toolkit 1.16.1", replace(HEALTHY, toolkit="1.16.1"), \
        "toolkit", Level.FAIL, "CVE-2024-0132"  # fmt: skip
    yield "toolkit 1.17.8", replace(HEALTHY, toolkit="1.17.8"), \
        "toolkit", Level.WARN, "later"  # fmt: skip
    yield "cannot attach", \
        with_engine(runtimes=frozenset({"runc"}), cdi_devices=frozenset()), \
        "runtime", Level.FAIL, "cannot attach"  # fmt: skip
    yield "default runtime", with_engine(default_runtime="nvidia"), \
        "runtime", Level.WARN, "default"  # fmt: skip
    yield "daemon-reload", \
        replace(with_engine(cdi_devices=None), has_char_links=False), \
        "cgroup", Level.WARN, "daemon-reload"  # fmt: skip
    stale = replace(CDI, driver_versions=frozenset({"550.1"}))
    yield "stale CDI", replace(HEALTHY, cdi=(stale,)), "cdi", Level.FAIL, "550.1"
    few = replace(CDI, devices=frozenset({"GPU-a", "0", "1"}))
    yield "CDI lacks a GPU", replace(HEALTHY, cdi=(few,)), "cdi", Level.FAIL, "GPU-b"
    yield "no CDI file", replace(HEALTHY, cdi=()), "cdi", Level.WARN, "no CDI file"
    full = Disk("data", "/srv", 4 * GIB, 200 * GIB)
    yield "full disk", replace(HEALTHY, disks=(full,)), "disk", Level.FAIL, "4.0 GiB"
    nodes = Disk("data", "/srv", 90 * GIB, 200 * GIB, 10)
    yield "no inodes", replace(HEALTHY, disks=(nodes,)), "disk", Level.FAIL, "10 files"
    low = Disk("data", "/srv", 19 * GIB, 200 * GIB)
    yield "low disk", replace(HEALTHY, disks=(low,)), "disk", Level.WARN, "19.0 GiB"
    small = (*(ENGINE.containers or ()), Container("t-bob", shm_bytes=64 << 20))
    yield "small shm", with_engine(containers=small), "shm", Level.WARN, "t-bob"
    yield "clock", replace(HEALTHY, is_clock_synchronised=False), \
        "time", Level.WARN, "synchronised"  # fmt: skip
    yield "open bridge", replace(HEALTHY, filters_bridges=False), \
        "isolation", Level.FAIL, "kernel"  # fmt: skip
    yield "open network", with_engine(is_network_closed=False), \
        "isolation", Level.FAIL, "network lets"  # fmt: skip
    yield "namesake", replace(HEALTHY, namesake="ada"), \
        "hub-user", Level.WARN, "ada"  # fmt: skip
    dead = (Container("hub-1", "hub", state="exited"),)
    yield "hub ended", with_engine(containers=dead), "services", Level.FAIL, "exited"
    sick = (Container("hub-1", "hub", health="unhealthy"),)
    yield "hub sick", with_engine(containers=sick), "services", Level.FAIL, "unhealthy"


@pytest.mark.parametrize(
    ("machine", "check", "level", "word"),
    [pytest.param(*rest, id=name) for name, *rest in bad_machines()],
)
def test_what_is_wrong_with_a_machine_is_found(
    machine: Machine, check: str, level: Level, word: str
) -> None:
    found = one(machine, check)
    assert found.level is level, found
    assert word in found.says
    assert found.fix


def bad_settings() -> Iterator[tuple[str, Deployment, str, Level, str]]:
    """What is wrong, the settings, who finds it, how bad it is, and a word it says."""
    yield "local, published", replace(SAFE, login=LOCAL), \
        "login", Level.FAIL, "one password"  # fmt: skip
    wrong = replace(SAFE, login=None, login_error="TORCHROOM_LOGIN is 'odd'.")
    yield "no such login", wrong, "login", Level.FAIL, "odd"
    yield "nobody is let in", replace(SAFE, courses=None), \
        "allow", Level.FAIL, "nobody"  # fmt: skip
    yield "nobody is named", replace(SAFE, courses=""), "allow", Level.FAIL, "nobody"
    yield "no admin", replace(SAFE, courses=COURSES.replace("admins", "#")), \
        "allow", Level.WARN, "no admin"  # fmt: skip
    yield "no instructor", replace(SAFE, courses=COURSES.replace("instructors", "#")), \
        "allow", Level.WARN, "cs101"  # fmt: skip
    yield "garbled", replace(SAFE, courses="admins = 1"), "allow", Level.FAIL, "admins"
    yield "unreadable", replace(SAFE, courses=None, courses_error="No such file."), \
        "allow", Level.FAIL, "No such file"  # fmt: skip
    odd = replace(SAFE, public=None, public_error="It must begin with https.")
    yield "not encrypted", odd, "tls", Level.FAIL, "begin with https"
    yield "self-signed", \
        replace(SAFE, answer=Answer("self-signed.", is_untrusted=True)), \
        "tls", Level.FAIL, "self-signed"  # fmt: skip
    yield "no answer", replace(SAFE, answer=Answer("refused.")), \
        "tls", Level.FAIL, "refused"  # fmt: skip
    soon = Answer(certificate_ends=NOW + timedelta(days=13), has_hsts=True)
    yield "ends soon", replace(SAFE, answer=soon), "tls", Level.WARN, "2026-12-05"
    yield "no HSTS", replace(SAFE, answer=Answer()), "tls", Level.WARN, "HSTS"
    loose = Answer(has_hsts=True, open_cookies=("_xsrf",))
    yield "open cookie", replace(SAFE, answer=loose), "cookies", Level.FAIL, "_xsrf"
    shared = public.read({"TORCHROOM_PUBLIC_URL": SITE})
    yield "one host name", replace(SAFE, public=shared), \
        "subdomains", Level.WARN, "share"  # fmt: skip
    yield "open secret", replace(SAFE, open_files=("/srv/secret",)), \
        "secrets", Level.FAIL, "/srv/secret"  # fmt: skip


@pytest.mark.parametrize(
    ("deployment", "check", "level", "word"),
    [pytest.param(*rest, id=name) for name, *rest in bad_settings()],
)
def test_what_is_wrong_with_settings_is_found(
    deployment: Deployment, check: str, level: Level, word: str
) -> None:
    found = of(deployment, check)
    assert found.level is level, found
    assert word in found.says
    assert found.fix


def test_what_cannot_be_read_never_passes() -> None:
    """A machine of which nothing is known has nothing that is well."""
    engine = Engine("28.2.0", cgroup_driver="systemd", security=ENGINE.security)
    nothing = Machine(driver=replace(DRIVER, gpus=(Gpu("GPU-a", "T4"),)), engine=engine)
    findings = examination.examine(nothing, Deployment(), NOW)
    passed = {f.check for f in findings if f.level is Level.OK}
    assert passed.isdisjoint(
        {"engine-tcp", "persistence", "toolkit", "cgroup", "cdi", "disk", "shm", "time",
         "services", "isolation", "hub-user"}
    ), passed  # fmt: skip
    silent = replace(SAFE, answer=None)
    assert deployed.check_tls(silent, NOW).level is Level.UNKNOWN
    assert deployed.check_cookies(silent).level is Level.UNKNOWN
    assert deployed.check_allowed(Deployment())[0].level is Level.UNKNOWN
    assert gpu_checks.check_driver(Machine()).level is Level.UNKNOWN
    assert machine_checks.check_seccomp(Machine()).level is Level.UNKNOWN


def test_without_a_gpu_nothing_is_asked_about_gpus() -> None:
    machine = replace(HEALTHY, driver=Driver(None), n_pci_gpus=0, toolkit="")
    findings = examination.examine(machine, SAFE, NOW)
    assert "toolkit" not in {finding.check for finding in findings}
    assert examination.exit_status(findings, is_strict=True) == 0


def test_without_settings_this_machine_alone_is_safe() -> None:
    for check in ("login", "allow", "tls", "cookies", "subdomains", "secrets"):
        assert (
            of(Deployment(login=LOCAL, public=public.read({})), check).level is Level.OK
        )


@pytest.mark.parametrize(
    ("level", "plain", "strict"),
    [(Level.OK, 0, 0), (Level.UNKNOWN, 0, 1), (Level.WARN, 0, 1), (Level.FAIL, 1, 1)],
)
def test_the_exit_status_is_that_of_the_worst(
    level: Level, plain: int, strict: int
) -> None:
    findings = (Finding("a", Level.OK, "."), Finding("b", level, "."))
    assert examination.exit_status(findings, is_strict=False) == plain
    assert examination.exit_status(findings, is_strict=True) == strict


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVIDIA Container Toolkit CLI version 1.17.8\ncommit: f202b8", (1, 17, 8)),
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("28.2", (28, 2, 0)),
        ("unknown", None),
    ],
)
def test_versions_are_read_as_programs_print_them(
    text: str, version: tuple[int, int, int] | None
) -> None:
    assert parse(text) == version


def test_versions_are_compared_as_numbers() -> None:
    assert is_below("1.9.10", "1.17.8")
    assert is_below("1.17.8", "1.17.8") is False
    assert is_below("?", "1.0") is None

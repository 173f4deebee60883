"""Every check of the doctor: what it passes, what it finds, and that it says a fix."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml
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
    Route,
)
from torchroom.doctor.versions import is_below, parse

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 22, tzinfo=UTC)
GIB = 1 << 30
GPUS = (Gpu("GPU-a", "H200", True), Gpu("GPU-b", "H200", True))
DRIVER = Driver("580.95.05", GPUS, module="nvidia")
CDI = CdiSpec(
    "/etc/cdi/nvidia.yaml",
    frozenset({"GPU-a", "GPU-b", "all"}),
    frozenset({"580.95.05"}),
)
ENGINE = Engine(
    "28.2.0",
    runtimes=frozenset({"runc", "nvidia"}),
    cgroup_driver="systemd",
    cdi_devices=frozenset({"nvidia.com/gpu=GPU-a", "nvidia.com/gpu=GPU-b"}),
    root_dir="/var/lib/docker",
    security=("name=seccomp,profile=builtin",),
    containers=(
        *(Container(f"{n}-1", n, health="healthy") for n in machine_checks.SERVICES),
        Container("t-ada", shm_bytes=4 * GIB),
    ),
    is_network_closed=True,
    image_cuda="13.0",
)
HEALTHY = Machine(
    n_pci_gpus=2,
    driver=DRIVER,
    toolkit="1.20.0",
    accepts_env=False,
    sets_cgroups=True,
    cdi=(CDI,),
    engine=ENGINE,
    is_engine_open=False,
    disks=(Disk("images and homes", "/var/lib/docker", 100 * GIB, 200 * GIB, 10**6),),
    is_clock_synchronised=True,
    filters_bridges=True,
    has_vsock=True,
    namesake="",
    routes=(Route(IPv4Network("192.168.1.0/24"), "eth0"),),
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
    answer=Answer(
        certificate_ends=NOW + timedelta(days=60), has_hsts=True, n_cookies=1
    ),
    refused=(),
    subnet=IPv4Network("10.117.0.0/20"),
    bridge="tr-room",
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
    page = ROOT / "docs" / "doctor.md"
    listed = re.findall(r"^\| `([\w-]+)` \|", page.read_text(), re.MULTILINE)
    checks = [finding.check for finding in examination.examine(HEALTHY, SAFE, NOW)]
    assert listed == checks


def bad_engines() -> Iterator[tuple[str, Machine, str, Level, str]]:
    """What is wrong, the machine, who finds it, how bad it is, and a word it says."""
    yield "no engine", replace(HEALTHY, engine=None, engine_error="refused."), \
        "engine", Level.FAIL, "refused"  # fmt: skip
    yield "old engine", with_engine(version="19.03.5"), "engine", Level.FAIL, "old"
    yield "odd engine", with_engine(version="dev"), "engine", Level.FAIL, "dev"
    yield "podman", with_engine(is_podman=True, version="4.3.1"), \
        "engine", Level.FAIL, "Podman"  # fmt: skip
    mapped = (*ENGINE.security, "name=userns")
    yield "userns-remap", with_engine(security=mapped), "engine", Level.FAIL, "userns"
    own = (*ENGINE.security, "name=rootless")
    yield "rootless", with_engine(security=own), "engine", Level.WARN, "rootless"
    yield "desktop", with_engine(system="Docker Desktop"), \
        "engine", Level.WARN, "Desktop"  # fmt: skip
    snap = "/var/snap/docker/common/var-lib-docker"
    yield "snap", with_engine(root_dir=snap), "engine", Level.WARN, "snap"
    swap = ("WARNING: No swap limit support",)
    yield "swap", with_engine(warnings=swap), "engine", Level.WARN, "swap"
    yield "no limits", with_engine(warnings=("WARNING: No memory limit support",)), \
        "engine", Level.FAIL, "limit"  # fmt: skip
    yield "no seccomp", with_engine(security=()), "seccomp", Level.FAIL, "filter"
    yield "unconfined", with_engine(security=("name=seccomp,profile=unconfined",)), \
        "seccomp", Level.FAIL, "filter"  # fmt: skip
    yield "open engine", replace(HEALTHY, is_engine_open=True), \
        "engine-tcp", Level.FAIL, "2375"  # fmt: skip


def bad_gpus() -> Iterator[tuple[str, Machine, str, Level, str]]:
    """As above, of machines that have GPUs."""
    yield "no driver", replace(HEALTHY, driver=Driver(None)), \
        "driver", Level.FAIL, "without"  # fmt: skip
    yield "driver silent", replace(HEALTHY, driver=Driver(None, error="NVML: boo.")), \
        "driver", Level.FAIL, "boo"  # fmt: skip
    split = replace(DRIVER, gpus=(GPUS[0], replace(GPUS[1], instances=())))
    yield "MIG without instances", replace(HEALTHY, driver=split), \
        "mig", Level.FAIL, "GPU-b"  # fmt: skip
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
    yield "toolkit 1.17.3", replace(HEALTHY, toolkit="1.17.3"), \
        "toolkit", Level.FAIL, "(CVE-2025-23359, CVE-2025-23266"  # fmt: skip
    for version in ("1.17.8", "1.19.0"):
        yield f"toolkit {version}", replace(HEALTHY, toolkit=version), \
            "toolkit", Level.WARN, "later"  # fmt: skip
    yield "no runtime, even if it has CDI", \
        with_engine(runtimes=frozenset({"runc"})), \
        "runtime", Level.FAIL, "the hub sees no GPU"  # fmt: skip
    yield "no cgroups", replace(HEALTHY, sets_cgroups=False), \
        "runtime", Level.FAIL, "no-cgroups"  # fmt: skip
    yield "default runtime", with_engine(default_runtime="nvidia"), \
        "runtime", Level.WARN, "default"  # fmt: skip
    yield "daemon-reload", with_engine(cdi_devices=None), \
        "cgroup", Level.WARN, "daemon-reload"  # fmt: skip
    some = frozenset({"nvidia.com/gpu=GPU-a", "vendor.com/net=GPU-b"})
    yield "a GPU that CDI does not attach", with_engine(cdi_devices=some), \
        "cgroup", Level.WARN, "daemon-reload"  # fmt: skip
    stale = replace(CDI, driver_versions=frozenset({"550.1"}))
    yield "stale CDI", replace(HEALTHY, cdi=(stale,)), "cdi", Level.FAIL, "550.1"
    few = replace(CDI, devices=frozenset({"GPU-a", "0", "1"}))
    yield "CDI lacks a GPU", replace(HEALTHY, cdi=(few,)), "cdi", Level.FAIL, "GPU-b"
    yield "no CDI file", replace(HEALTHY, cdi=()), "cdi", Level.WARN, "no CDI file"
    yield "CPU image", with_engine(image_cuda="none"), "image", Level.FAIL, "no CUDA"
    old = replace(DRIVER, version="550.90.07")
    yield "old driver", replace(HEALTHY, driver=old), "image", Level.FAIL, "580"


def bad_machines() -> Iterator[tuple[str, Machine, str, Level, str]]:
    """As above, of all else."""
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
    yield "virtual sockets", with_engine(version="20.10.24"), \
        "vsock", Level.WARN, "AF_VSOCK"  # fmt: skip
    yield "inside", on_road("10.117.4.0/24"), "addresses", Level.FAIL, "wg0"
    yield "the same", on_road("10.117.0.0/20"), "addresses", Level.FAIL, "wg0"
    yield "around", on_road("10.0.0.0/8"), "addresses", Level.WARN, "wg0"
    dead = Container("hub-1", "hub", state="exited")
    yield "hub ended", instead_of_hub(dead), "services", Level.FAIL, "exited"
    sick = Container("hub-1", "hub", health="unhealthy")
    yield "hub sick", instead_of_hub(sick), "services", Level.FAIL, "unhealthy"
    yield "hub removed", instead_of_hub(), "services", Level.FAIL, "hub is not there"


def instead_of_hub(*containers: Container) -> Machine:
    """A machine with other containers where the hub should be."""
    others = [c for c in ENGINE.containers or () if c.service != "hub"]
    return with_engine(containers=(*others, *containers))


def on_road(network: str) -> Machine:
    """A machine with one route more, to a private network somewhere else."""
    route = Route(IPv4Network(network), "wg0")
    return replace(HEALTHY, routes=(*(HEALTHY.routes or ()), route))


@pytest.mark.parametrize(
    ("machine", "check", "level", "word"),
    [
        pytest.param(*rest, id=name)
        for name, *rest in (*bad_engines(), *bad_gpus(), *bad_machines())
    ],
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
    loose = Answer(has_hsts=True, n_cookies=2, open_cookies=("_xsrf",))
    yield "open cookie", replace(SAFE, answer=loose), "cookies", Level.FAIL, "_xsrf"
    shared = public.read({"TORCHROOM_PUBLIC_URL": SITE})
    yield "one host name", replace(SAFE, public=shared), \
        "subdomains", Level.WARN, "share"  # fmt: skip
    refused = replace(SAFE, refused=(("TORCHROOM_PORT is 'x'.", "Set a number."),))
    yield "refused", refused, "settings", Level.FAIL, "TORCHROOM_PORT"
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
    engine = Engine("20.10.24", cgroup_driver="systemd", security=ENGINE.security)
    nothing = Machine(driver=replace(DRIVER, gpus=(Gpu("GPU-a", "T4"),)), engine=engine)
    findings = examination.examine(nothing, Deployment(), NOW)
    passed = {f.check for f in findings if f.level is Level.OK}
    assert passed.isdisjoint(
        {"engine-tcp", "persistence", "toolkit", "cgroup", "cdi", "disk", "shm", "time",
         "services", "isolation", "addresses", "vsock", "hub-user"}
    ), passed  # fmt: skip
    assert deployed.check_settings(Deployment())[0].level is Level.UNKNOWN
    cookieless = replace(SAFE, answer=Answer(has_hsts=True))
    assert deployed.check_cookies(cookieless).level is Level.UNKNOWN
    silent = replace(SAFE, answer=None)
    assert deployed.check_tls(silent, NOW).level is Level.UNKNOWN
    assert deployed.check_cookies(silent).level is Level.UNKNOWN
    assert deployed.check_allowed(Deployment())[0].level is Level.UNKNOWN
    assert gpu_checks.check_driver(Machine()).level is Level.UNKNOWN
    assert machine_checks.check_seccomp(Machine()).level is Level.UNKNOWN


@pytest.mark.parametrize(
    ("driver", "is_secure_boot", "todo"),
    [
        (Driver(None, error="Failed to initialize NVML: Driver/library version "
                "mismatch.", module="nvidia"), False, "Restart the machine"),
        (Driver(None, error="It failed.", module="nouveau"), False, "nouveau"),
        (Driver(None, error="It failed."), True, "Secure Boot"),
        (Driver(None, error="It failed."), False, "modprobe nvidia"),
        (Driver(None, error="It failed.", module="nvidia"), False, "dmesg"),
        (Driver(None, module="nvidia"), False, "nvidia-smi"),
        (Driver(None, module="nouveau"), False, "Install version 580"),
    ],
    ids=["mismatch", "nouveau", "unsigned", "not built", "broken", "no nvidia-smi",
         "none"],
)  # fmt: skip
def test_a_driver_that_does_not_answer_is_mended_by_its_cause(
    driver: Driver, is_secure_boot: bool, todo: str
) -> None:
    machine = replace(HEALTHY, driver=driver, is_secure_boot=is_secure_boot)
    found = one(machine, "driver")
    assert found.level is Level.FAIL
    assert todo in found.fix


def test_what_is_just_enough_passes() -> None:
    disk = Disk("data", "/srv", 20 * GIB, 200 * GIB, machine_checks.INODES_LEAST)
    assert one(replace(HEALTHY, disks=(disk,)), "disk").level is Level.OK
    answer = Answer(certificate_ends=NOW + timedelta(days=14), has_hsts=True)
    assert of(replace(SAFE, answer=answer), "tls").level is Level.OK
    assert one(replace(HEALTHY, toolkit="1.19.1"), "toolkit").level is Level.OK
    twelve = replace(
        with_engine(image_cuda="12.9"), driver=replace(DRIVER, version="525.60.13")
    )
    assert one(twelve, "image").level is Level.OK


@pytest.mark.parametrize("module", ["nvidia", ""])
def test_a_driver_where_no_gpu_is_may_be_meant_so(module: str) -> None:
    """Its packages are in the machine's image, or virtual machines have the GPUs."""
    driver = Driver(None, error="No devices were found.", module=module)
    found = one(replace(HEALTHY, driver=driver, n_pci_gpus=0), "driver")
    assert found.level is Level.WARN
    assert "no NVIDIA GPU" in found.says
    assert "modprobe" not in found.fix


@pytest.mark.parametrize(
    ("version", "todo"), [("28.2.0", "nvidia-ctk cdi"), ("28.1.1", "Install Docker 28")]
)
def test_what_the_hook_attaches_is_lost_at_a_daemon_reload(
    version: str, todo: str
) -> None:
    """Also with links in /dev/char: systemd knows of no device of the hook's."""
    found = one(with_engine(version=version, cdi_devices=None), "cgroup")
    assert todo in found.fix
    assert "cgroupfs" in found.fix
    plain = with_engine(cgroup_driver="cgroupfs", cdi_devices=None)
    assert one(plain, "cgroup").level is Level.OK


def test_persistence_mode_is_switched_on_by_what_every_driver_has() -> None:
    """Ubuntu's service of it runs with --no-persistence-mode."""
    off = replace(DRIVER, gpus=(Gpu("GPU-a", "T4", False),))
    fix = one(replace(HEALTHY, driver=off), "persistence").fix
    assert fix.startswith("nvidia-smi -pm 1")
    assert "## Persistence mode" in (ROOT / "docs" / "doctor.md").read_text()


@pytest.mark.parametrize(
    "machine",
    [
        with_engine(runtimes=frozenset({"runc"})),
        with_engine(default_runtime="nvidia"),
    ],
)
def test_runtimes_are_mended_without_an_end_of_servers(machine: Machine) -> None:
    """A restart of the engine ends every container."""
    fix = one(machine, "runtime").fix
    assert "systemctl reload docker" in fix
    assert "restart" not in fix


@pytest.mark.parametrize(
    ("machine", "check"),
    [
        (with_engine(security=(*ENGINE.security, "name=userns")), "engine"),
        (replace(HEALTHY, engine=None, engine_error="timed out."), "engine"),
        (with_engine(security=()), "seccomp"),
        (replace(HEALTHY, is_engine_open=True), "engine-tcp"),
        (with_engine(is_network_closed=False), "isolation"),
        (on_road("10.117.4.0/24"), "addresses"),
    ],
)
def test_a_fix_that_ends_servers_says_so(machine: Machine, check: str) -> None:
    assert "ends all servers" in one(machine, check).fix


@pytest.mark.parametrize(
    ("said", "todo"),
    [
        ("/run/docker.sock: No such file or directory.", "make up"),
        ("/run/docker.sock: Connection refused.", "systemctl start docker"),
        ("/run/docker.sock: Permission denied.", "as root"),
        ("DOCKER_HOST is 'tcp://h'; only unix:// can be looked at.", "unset"),
        ("/run/docker.sock: timed out.", "systemctl restart docker"),
    ],
)
def test_an_engine_that_does_not_answer_is_mended_by_its_cause(
    said: str, todo: str
) -> None:
    found = one(replace(HEALTHY, engine=None, engine_error=said), "engine")
    assert todo in found.fix


def test_a_stale_cdi_file_is_written_anew_where_it_is() -> None:
    """Written elsewhere, the old one would still be read."""
    spec = replace(CDI, driver_versions=frozenset({"550.1"}))
    assert spec.path in one(replace(HEALTHY, cdi=(spec,)), "cdi").fix


def test_of_a_split_gpu_its_instances_must_be_listed() -> None:
    parts = replace(DRIVER, gpus=(GPUS[0], replace(GPUS[1], instances=("MIG-1",))))
    assert one(replace(HEALTHY, driver=parts), "mig").level is Level.OK
    lacking = one(replace(HEALTHY, driver=parts), "cdi")
    assert (lacking.level, "MIG-1" in lacking.says) == (Level.FAIL, True)
    listed = replace(CDI, devices=frozenset({"GPU-a", "MIG-1"}))
    whole = replace(HEALTHY, driver=parts, cdi=(listed,))
    assert one(whole, "cdi").level is Level.OK


def test_an_old_engine_is_good_enough_where_there_are_no_virtual_sockets() -> None:
    machine = replace(with_engine(version="20.10.24"), has_vsock=False)
    assert one(machine, "vsock").level is Level.OK


def test_the_servers_own_network_is_no_stranger() -> None:
    own = Route(IPv4Network("10.117.0.0/20"), "tr-room")
    assert one(replace(HEALTHY, routes=(own,)), "addresses").level is Level.OK


def test_every_service_that_is_always_there_is_missed() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    always = {name for name, service in services.items() if "profiles" not in service}
    assert always == machine_checks.SERVICES


def test_inside_a_container_people_are_sent_to_the_host() -> None:
    """What the gate in front of the engine keeps from the hub is seen there."""
    engine = replace(ENGINE, containers=None, is_network_closed=None)
    machine = replace(HEALTHY, is_container=True, engine=engine, disks=())
    for check in ("shm", "services", "isolation", "disk"):
        assert one(machine, check).fix == gpu_checks.ON_HOST


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


def test_the_json_is_as_the_docs_show_it() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text()
    block = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert block
    shown = json.loads(block[1])
    said = json.loads(examination.as_json(examination.examine(HEALTHY, SAFE, NOW), NOW))
    assert said.keys() == shown.keys()
    assert said["version"] == shown["version"]
    assert datetime.fromisoformat(said["at"]) == NOW
    assert {tuple(finding) for finding in said["findings"]} == {
        tuple(finding) for finding in shown["findings"]
    }
    assert all(f"`{level}`" in page for level in Level)


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

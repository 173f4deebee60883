"""What the documents name is there: files, commands, settings, addresses."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import yaml
from fastapi import APIRouter
from gpuspawner.spawner import GPUDockerSpawner
from torchroom import cli, console

ROOT = Path(__file__).resolve().parents[2]
PLACES = (
    "[A-Z]*.md",
    "docs/**/*.md",
    "hub/torchroom/**/README.md",
    "spawner/README.md",
    "welcome/**/README.md",
)
DOCUMENTS = sorted(
    path.relative_to(ROOT) for place in PLACES for path in ROOT.glob(place)
)
HISTORY = Path("CHANGELOG.md")  # names what was
NOW = [path for path in DOCUMENTS if path != HISTORY]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
VARIABLE = r"\bTORCHROOM_[A-Z][A-Z_]*[A-Z]\b"
COMPOSED = r"\{OAUTH\}([A-Z_]+)"  # as auth/settings.py writes them
OF_TESTS = {  # for parts that run alone, in tests and benchmarks
    "TORCHROOM_GATE_ENGINE",
    "TORCHROOM_GATE_SOCKET",
    "TORCHROOM_TEST_IMAGE",
    "TORCHROOM_UPDATE_PICTURES",
    "TORCHROOM_WELCOME_DIR",
}
PUBLIC = "hub/torchroom/public.py"  # read by `make up` as well
API = "/services/torchroom/api/v1"
_FENCE = re.compile(r"^```.*\n", re.MULTILINE)
_CALL = re.compile(r"^(?=curl )", re.MULTILINE)
pages = pytest.mark.parametrize("page", NOW, ids=str)


def text_of(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def lines(pattern: str, text: str) -> list[str]:
    """Find all, where ^ and $ are of any line."""
    return re.findall(pattern, text, re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """Return what stands between two lines of three backticks."""
    return _FENCE.split(text_of(page))[1::2]


def quoted(page: Path) -> list[str]:
    """Return every piece of code within a line, and every line of a block."""
    text = "".join(_FENCE.split(text_of(page))[::2])
    indented = lines(r"^ {4}(.*)$", text)
    within = re.findall(r"`([^`\n]+)`", text)
    return [*within, *indented, *"".join(blocks(page)).splitlines()]


# ----------------------------------------------------------------- files and headings


def anchors(page: Path) -> set[str]:
    """Return the headings as GitHub names them in links."""
    found = lines(r"^#+ (.*)$", text_of(page))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in found)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", DOCUMENTS, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, and a heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if urlsplit(target).scheme:
            continue
        name, _, anchor = target.partition("#")
        place = (ROOT / page).parent / name if name else ROOT / page
        assert place.exists(), target
        if anchor:
            there = place.resolve().relative_to(ROOT)
            assert anchor in anchors(there), target


def test_every_page_is_found_from_the_first() -> None:
    """From README.md, link by link."""
    found, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        place = ahead.pop()
        found.add(place)
        targets = re.findall(r"\]\(([^)\s#]+\.md)", place.read_text(encoding="utf-8"))
        near = {(place.parent / name).resolve() for name in targets if ":" not in name}
        ahead += near - found
    apart = ("docs/adr", "welcome/home")  # README.md names folders; a student's home
    rest = {page for page in NOW if not str(page).startswith(apart)}
    assert {ROOT / page for page in rest} - found == set()


@pages
def test_every_file_of_the_repository_that_is_named_is_there(page: Path) -> None:
    """Patterns find at least one."""
    rooms = "bench|deploy|docs|hub|images|spawner|tests|welcome"
    for name in quoted(page):
        if re.fullmatch(rf"(?:{rooms})/[\w./*-]+", name):
            assert list(ROOT.glob(name.rstrip("/"))), name


# --------------------------------------------------------------------------- commands


@cache
def targets() -> set[str]:
    return set(lines(r"^([a-z-]+):(?!=)", text_of(Path("Makefile"))))


@pages
def test_every_target_of_make_exists(page: Path) -> None:
    for line in quoted(page):
        if found := re.match(r"(?:[A-Z]+=\S+ )*make ([a-z-]+)", line):
            assert found[1] in targets(), line


@pages
def test_every_command_exists_with_its_options(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of `torchroom`, wherever it is run."""
    for line in quoted(page):
        found = re.search(r"(?:^|\s)torchroom (ledger|steward|doctor)\b(.*)", line)
        if not found:
            continue
        room, rest = found.groups()
        verbs = re.findall(r"^ ([a-z-]+)\b", rest)
        with pytest.raises(SystemExit) as ended:
            cli.main([room, *verbs, "--help"])
        assert ended.value.code == 0, line
        shown = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in shown, line


def test_every_command_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """In the table of tokens.md, and where the steward and the doctor are."""
    documented = "\n".join(text_of(page) for page in NOW)
    for room in ("ledger", "steward"):
        with pytest.raises(SystemExit):
            cli.main([room, "--help"])
        verbs = lines(r"^    ([a-z-]+)\b", capsys.readouterr().out)
        assert verbs
        for verb in verbs:
            row = rf"^\| `{verb}\b" if room == "ledger" else rf"torchroom {room} {verb}"
            assert lines(row, documented), verb


@pages
def test_every_script_that_is_run_is_there(page: Path) -> None:
    for line in quoted(page):
        if found := re.match(r"(?:[A-Z_]+=\S+ )*python3? ([\w/]+\.py)", line):
            assert (ROOT / found[1]).is_file(), line
        for test in re.findall(r"\btests/[\w/]+\.py", line):
            assert (ROOT / test).is_file(), line


# --------------------------------------------------------------------------- settings


def sources(*patterns: str) -> Iterator[str]:
    for pattern in patterns:
        for path in ROOT.glob(pattern):
            yield path.read_text(encoding="utf-8")


def read_by_the_hub() -> set[str]:
    found: set[str] = set()
    for text in sources("hub/torchroom/**/*.py", "spawner/gpuspawner/**/*.py"):
        found |= set(re.findall(VARIABLE, text))
        found |= {f"TORCHROOM_OAUTH_{name}" for name in re.findall(COMPOSED, text)}
    return found


def of_compose() -> dict[str, str]:
    """Return what docker-compose.yml sets inside the containers, by name."""
    services = yaml.safe_load(text_of(Path("docker-compose.yml")))["services"]
    return {
        name: str(value)
        for service in services.values()
        for name, value in service.get("environment", {}).items()
    }


def test_every_setting_of_the_hub_is_documented() -> None:
    """But for what docker-compose.yml sets by itself."""
    inner = {name for name, value in of_compose().items() if f"${{{name}" not in value}
    documented = set(re.findall(VARIABLE, EXAMPLE))
    assert read_by_the_hub() - inner - OF_TESTS <= documented


def test_every_setting_that_is_documented_is_read() -> None:
    """By what starts the deployment, or by the hub, to which compose hands it."""
    started = set[str]()
    starts = ("docker-compose.yml", "deploy/**/*.py", "images/**/*.py", PUBLIC)
    for text in sources(*starts):
        started |= set(re.findall(r"\b[A-Z][A-Z_]*[A-Z]\b", text))
    settings = set(lines(r"^#([A-Z_]+)=", EXAMPLE))
    assert settings - started == set()
    handed = {name for name in of_compose() if name in settings}
    assert handed - read_by_the_hub() - {"DOCKER_HOST"} == set()


@pages
def test_every_variable_in_the_text_is_a_setting(page: Path) -> None:
    known = set(re.findall(VARIABLE, EXAMPLE)) | OF_TESTS
    assert set(re.findall(VARIABLE, text_of(page))) <= known


def test_every_default_that_the_example_shows_is_a_comment() -> None:
    """A copy of it, unchanged, sets nothing."""
    assert lines(r"^[^#\n].*", EXAMPLE) == []


@pages
def test_every_setting_of_the_spawner_exists(page: Path) -> None:
    """Those that are named with their class."""
    for name in re.findall(r"\bGPUDockerSpawner\.([a-z]\w*)", text_of(page)):
        assert GPUDockerSpawner.class_traits().get(name), name


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        ("spawner/README.md", "| setting |"),
        ("docs/admins.md", "`c.GPUDockerSpawner.…`"),
    ],
)
def test_every_setting_in_a_table_exists(page: str, heading: str) -> None:
    """The first column of the two tables of the spawner's settings."""
    table = text_of(Path(page)).partition(heading)[2].partition("\n\n")[0]
    rows = lines(r"^\| ((?:`[^`]+`(?:, )?)+) \|", table)
    names = [n for row in rows for n in re.findall(r"`(\w+)", row)]
    assert len(names) > 3
    assert set(names) <= set(GPUDockerSpawner.class_traits())


# --------------------------------------------------------------------------- REST API


@cache
def operations() -> frozenset[tuple[str, str]]:
    """Return method and path, as a regular expression, of the console's REST API."""
    found = set()
    for module in iter_modules(console.__path__, f"{console.__name__}."):
        router = getattr(import_module(module.name), "router", None)
        if isinstance(router, APIRouter):
            for route in cast("list[Any]", router.routes):
                path = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.path))
                found |= {(method, path) for method in route.methods}
    return frozenset(found)


def is_answered(method: str, path: str) -> bool:
    return any(
        method == known and re.fullmatch(pattern, path)
        for known, pattern in operations()
    )


@pytest.mark.parametrize("page", [p for p in NOW if p.parts[0] == "docs"], ids=str)
def test_every_address_of_the_rest_api_is_answered(page: Path) -> None:
    """As it is called with curl, or named with its method; the hub's own are not."""
    for method, path in [*called(page), *named(page)]:
        if not path.startswith("/hub/"):
            below = f"/courses/ml101{path}"  # a table of what is below a course
            assert is_answered(method, path) or is_answered(method, below), path


def called(page: Path) -> Iterator[tuple[str, str]]:
    for block in blocks(page):
        for call in _CALL.split(block):
            words = shlex.split(call, comments=True) if call.startswith("curl ") else []
            for word in words:
                if found := re.match(rf"(?:\$API|https://HUB{API})(/[^?]*)", word):
                    sends = "--json" in words or "-d" in words
                    given = words[words.index("-X") + 1] if "-X" in words else ""
                    yield given or ("POST" if sends else "GET"), found[1]


def named(page: Path) -> Iterator[tuple[str, str]]:
    for line in quoted(page):
        if found := re.match(r"(GET|POST|PUT|DELETE) (/[^?\s]+)", line):
            yield found[1], found[2].removeprefix(API)


def test_there_is_something_to_look_at() -> None:
    """What finds nothing in any page finds no mistake in one."""
    found = [line for page in NOW for line in quoted(page)]
    assert sum(line.startswith("make ") for line in found) > 10
    assert sum("torchroom " in line for line in found) > 10
    assert sum(len(list(called(page))) for page in NOW) > 20
    assert sum(len(list(named(page))) for page in NOW) > 10
    assert len(operations()) > 30

"""The Jupyter server's half of the warnings: asks the hub seldom, and never fails."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from torchroom_welcome import asking, facts, panel, show, warning
from torchroom_welcome.lab import desk
from torchroom_welcome.lab.desk import Answer, Desk

PACKAGE = Path(warning.__file__).parent
EXTENSION = PACKAGE / "lab" / "share" / "labextensions" / "@torchroom" / "lab"
NOTICE = {
    "lease": "ls_1",
    "server": "",
    "reason": "idle",
    "sentence": "The GPU has computed nothing for 20 minutes. This server stops in 5 "
    "minutes. Your files are kept.",
    "stops_at": "2026-06-01T12:05:00Z",
    "seconds_left": 290,
    "extend_by_s": 1800,
    "microtokens": 1_500_000,
    "n_extensions_left": 2,
    "next_extension": 1,
}
BALANCE = {"spendable": 7_000_000, "microtokens_per_hour": 0, "seconds_left": None}
PREFIX = "/services/torchroom/api/v1"


class Console:
    """The hub's console as a test wants it."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {
            "notice": (200, NOTICE),
            "extension": (201, NOTICE | {"seconds_left": 2090, "next_extension": 2}),
            "me": (200, BALANCE),
        }
        self.asked: list[tuple[str, str, str | None, Any]] = []
        self.url = ""

    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [path.removeprefix(f"{PREFIX}/") for _, path, _, _ in self.asked]


class Clock:
    """Shows what it was set to."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    """A stand-in on the loopback; the environment is a server's."""
    made = Console()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            sent = json.loads(self.rfile.read(length)) if length else None
            token = self.headers.get("Authorization")
            made.asked.append((self.command, self.path, token, sent))
            status, body = made.answers[self.path.rpartition("/")[2]]
            self.send_response(status)
            self.end_headers()
            if status != 204:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.wfile.write(raw)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    monkeypatch.setenv(asking.TOKEN_VARIABLE, "of-this-server")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}{PREFIX}"
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def here(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The facts of a server with a GPU; `write` them after a change."""
    gpu = {"uuid": "GPU-1", "index": 0, "name": "T4", "memory_bytes": 1}
    found = {
        "user": "ann",
        "server": "",
        "lease": {"id": "ls_1", "devices": [gpu]},
        "simulated": True,
        "limits": None,
        "tokens": {
            "provider": "torchroom",
            "is_placeholder": False,
            "url": console.url,
            "balance_microtokens": None,
            "rate_microtokens_per_hour": 0,
        },
    }
    monkeypatch.setenv(facts.PATH_VARIABLE, str(tmp_path / "server.json"))
    write(tmp_path, found)
    return found


def write(folder: Path, found: dict[str, Any]) -> None:
    """Lay the facts where the server finds them."""
    (folder / "server.json").write_text(json.dumps(found))


# ------------------------------------------------------------------------------ asking


async def test_a_warning_is_handed_on(console: Console, here: dict[str, Any]) -> None:
    """With this server's own token, and when to ask again."""
    said = await Desk().notice()
    assert said.status == 200
    notice = said.body["notice"]
    assert isinstance(notice, dict)
    assert notice["seconds_left"] == 290
    assert (notice["reason"], notice["next_extension"]) == ("idle", 1)
    assert (said.body["every_s"], said.body["hidden_every_s"]) == (30, 60)
    path = f"{PREFIX}/me/servers/-/notice"
    assert console.asked == [("GET", path, "token of-this-server", None)]


async def test_many_tabs_ask_the_hub_once(
    console: Console, here: dict[str, Any]
) -> None:
    """For some seconds; the countdown goes on meanwhile, and ends at zero."""
    clock = Clock()
    made = Desk(clock)
    await asyncio.gather(*(made.notice() for _ in range(10)))
    clock.s += desk.KEPT_S - 1
    later = (await made.notice()).body["notice"]
    assert isinstance(later, dict)
    assert later["seconds_left"] == 286
    assert len(console.asked) == 1
    clock.s += 1
    await made.notice()
    assert len(console.asked) == 2


async def test_many_tabs_ask_a_silent_hub_once(
    console: Console, here: dict[str, Any]
) -> None:
    """None waits behind the others, nor does an extension, while the hub is away."""
    console.answers["notice"] = (503, {})
    clock = Clock()
    made = Desk(clock)
    said = await asyncio.gather(*(made.notice() for _ in range(10)))
    assert {answer.status for answer in said} == {503}
    assert len(console.asked) == 1
    console.answers["notice"] = (200, NOTICE)
    clock.s += desk.KEPT_S
    assert (await made.notice()).status == 200


async def test_nothing_to_say_is_said(console: Console, here: dict[str, Any]) -> None:
    """204 is no notice."""
    console.answers["notice"] = (204, None)
    said = await Desk().notice()
    assert said == Answer(
        200, {"notice": None, "every_s": 30, "hidden_every_s": desk.HIDDEN_EVERY_S}
    )


async def test_a_named_server_asks_for_itself(
    console: Console, here: dict[str, Any], tmp_path: Path
) -> None:
    """Its name is quoted."""
    write(tmp_path, here | {"server": "my big/one"})
    await Desk().notice()
    assert console.paths() == ["me/servers/my%20big%2Fone/notice"]


async def test_a_cpu_server_is_not_asked_from_a_hidden_tab(
    console: Console, here: dict[str, Any], tmp_path: Path
) -> None:
    """That would pass for activity, and the server would never be idle."""
    write(tmp_path, here | {"lease": None})
    said = await Desk().notice()
    assert said.body["notice"] is not None
    assert (said.body["every_s"], said.body["hidden_every_s"]) == (30, None)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": None},
        {"tokens": {"provider": "none", "is_placeholder": True}},
        {"tokens": {"provider": "torchroom", "is_placeholder": False, "url": ""}},
        {"tokens": {"provider": "facts", "is_placeholder": False, "url": "http://x"}},
        {"user": 7},
    ],
)
async def test_a_hub_without_a_ledger_is_not_asked(
    console: Console, here: dict[str, Any], tmp_path: Path, change: dict[str, Any]
) -> None:
    """Nor from facts that cannot be read: the page asks no more."""
    write(tmp_path, here | change)
    said = await Desk().notice()
    assert (said.status, said.body["notice"], said.body["every_s"]) == (200, None, None)
    assert (await Desk().extend("ls_1", 1)).status == 404
    assert console.asked == []


@pytest.mark.parametrize("status", [401, 404, 500, 503])
async def test_a_ledger_that_says_no_is_a_sentence(
    console: Console, here: dict[str, Any], status: int
) -> None:
    """The page asks again later."""
    console.answers["notice"] = (status, {"message": "No."})
    said = await Desk().notice()
    assert said.status == 503
    assert re.fullmatch(r"The hub .*; .*\.", str(said.body["message"]))
    console.answers["notice"] = (204, None)
    assert (await Desk().notice()).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[" * 100_000,
        b"null",
        NOTICE | {"seconds_left": -1},
        NOTICE | {"seconds_left": "5"},
        NOTICE | {"microtokens": 1.5},
        NOTICE | {"next_extension": True},
        NOTICE | {"sentence": None},
        NOTICE | {"reason": None},
        {},
    ],
)
async def test_a_garbled_answer_is_no_warning(
    console: Console, here: dict[str, Any], body: Any
) -> None:
    """A sentence, never a traceback."""
    console.answers["notice"] = (200, body)
    said = await Desk().notice()
    assert said.status == 503
    assert "garbled" in str(said.body["message"])


async def test_a_ledger_that_is_not_there_is_a_sentence(
    here: dict[str, Any], tmp_path: Path
) -> None:
    """Nobody listens on this port."""
    tokens = here["tokens"] | {"url": "http://127.0.0.1:9/api"}
    write(tmp_path, here | {"tokens": tokens})
    said = await Desk().extend("ls_1", 1)
    why = "The hub does not answer; try again in a minute."
    assert said == Answer(503, {"message": why})


# --------------------------------------------------------------------------- extending


async def test_an_extension_is_asked_for_by_its_number(
    console: Console, here: dict[str, Any]
) -> None:
    """The answer has the new end and what is left; it is what all tabs are told."""
    made = Desk()
    await made.notice()
    said = await made.extend("ls_1", 1)
    assert said.status == 200
    assert said.body["microtokens_left"] == 7_000_000
    (_, path, token, sent) = console.asked[1]
    assert path == f"{PREFIX}/me/servers/-/extension"
    assert (token, sent) == ("token of-this-server", {"lease": "ls_1", "extension": 1})
    after = (await made.notice()).body["notice"]
    assert isinstance(after, dict)
    assert (after["seconds_left"], after["next_extension"]) == (2090, 2)
    assert len(console.asked) == 3


async def test_a_warning_of_an_earlier_server_is_dropped(
    console: Console, here: dict[str, Any]
) -> None:
    """The steward has not seen this one yet; nobody pays for the one that is gone."""
    console.answers["notice"] = (200, NOTICE | {"lease": "ls_0"})
    made = Desk()
    said = await made.notice()
    assert (said.status, said.body["notice"]) == (200, None)
    assert "▲" not in repr(show.tokens())
    n_asked = len(console.asked)
    refused = await made.extend("ls_0", 1)
    assert refused.status == 409
    assert "started anew" in str(refused.body["message"])
    assert len(console.asked) == n_asked


async def test_a_server_without_a_gpu_drops_an_earlier_ones_warning_too(
    console: Console, here: dict[str, Any], tmp_path: Path
) -> None:
    """The facts name its lease, though there is no GPU in it."""
    write(tmp_path, here | {"lease": None, "lease_id": "ls_1"})
    said = await Desk().notice()
    assert said.body["notice"] is not None
    console.answers["notice"] = (200, NOTICE | {"lease": "ls_0"})
    said = await Desk().notice()
    assert (said.status, said.body["notice"]) == (200, None)
    assert (await Desk().extend("ls_0", 1)).status == 409
    assert (await Desk().extend("ls_1", 1)).status == 200


async def test_a_server_that_an_older_hub_started_goes_by_the_pages_lease(
    console: Console, here: dict[str, Any], tmp_path: Path
) -> None:
    """Without a GPU its facts do not name its own; the hub looks for it."""
    write(tmp_path, here | {"lease": None})
    assert (await Desk().extend("ls_7", 1)).status == 200
    assert console.asked[0][3] == {"lease": "ls_7", "extension": 1}


@pytest.mark.parametrize("lease", [None, 1, "", ["ls_1"], "x" * 300])
async def test_what_is_no_lease_is_not_sent(
    console: Console, here: dict[str, Any], lease: Any
) -> None:
    """The hub would refuse it, too."""
    assert (await Desk().extend(lease, 1)).status == 400
    assert console.asked == []


async def test_a_refusal_is_handed_on(console: Console, here: dict[str, Any]) -> None:
    """In the console's words, cut if they are very long."""
    for status in (402, 409):
        console.answers["extension"] = (status, {"message": "Not enough. " * 99})
        said = await Desk().extend("ls_1", 1)
        assert said.status == 409
        assert str(said.body["message"]).startswith("Not enough.")
        assert len(str(said.body["message"])) <= warning.SENTENCE_MAX


async def test_without_a_balance_it_is_extended_all_the_same(
    console: Console, here: dict[str, Any]
) -> None:
    """What is left is not known, never zero."""
    console.answers["me"] = (503, {})
    said = await Desk().extend("ls_1", 1)
    assert (said.status, said.body["microtokens_left"]) == (200, None)


@pytest.mark.parametrize("number", [None, "1", 1.0, True, [1], {}])
async def test_what_is_no_number_is_not_sent(
    console: Console, here: dict[str, Any], number: Any
) -> None:
    """The hub would refuse it, too."""
    assert (await Desk().extend("ls_1", number)).status == 400
    assert console.asked == []


# --------------------------------------------------------------------------- the panel


def test_the_panel_of_tokens_warns(console: Console, here: dict[str, Any]) -> None:
    """Why, how long it is, and what more time costs."""
    shown = repr(show.tokens())
    assert "▲ The GPU has computed nothing for 20 minutes. Stops in 4 min." in shown
    assert "30 min more: 1.5 tokens, 2 times left; press Extend in" in shown
    console.answers["notice"] = (200, NOTICE | {"n_extensions_left": 1})
    assert "30 min more: 1.5 tokens, last time; press Extend in" in repr(show.tokens())
    console.answers["notice"] = (200, NOTICE | {"seconds_left": None})
    assert "Your files are kept." in repr(show.tokens())
    console.answers["notice"] = (200, NOTICE | {"microtokens": 0})
    assert "30 min more: free" in repr(show.tokens())


def test_the_panel_without_a_warning_says_nothing_of_it(
    console: Console, here: dict[str, Any]
) -> None:
    """Nor if the ledger is silent: the figures' own line says that."""
    answers: list[tuple[int, Any]] = [(204, None), (503, {}), (200, b"?")]
    for answer in answers:
        console.answers["notice"] = answer
        assert isinstance(show.tokens(), panel.Panel)
        assert "▲" not in repr(show.tokens())


# ------------------------------------------------------------------------ the delivery


def python(*lines: str) -> str:
    """What these lines print in a Python that knows nothing of this project."""
    command = [sys.executable, "-I", "-c", "\n".join(lines)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_boot_imports_next_to_nothing() -> None:
    """The rest is imported when a page asks the first time."""
    lines = [
        "import sys",
        f"sys.path.append({str(PACKAGE.parent)!r})",
        "before = set(sys.modules)",
        "import torchroom_welcome.lab",
        "print(sorted(set(sys.modules) - before - {'__future__'}))",
    ]
    assert python(*lines) == "['torchroom_welcome', 'torchroom_welcome.lab']"


def test_a_server_that_cannot_load_it_starts_all_the_same() -> None:
    """Here there is no jupyter_server; it is logged, not raised."""
    from torchroom_welcome import lab

    said: list[str] = []

    class Log:
        def warning(self, text: str, *values: object) -> None:
            said.append(text % values)

    class Server:
        log = Log()
        web_app = None

    lab._load_jupyter_server_extension(Server())
    assert len(said) == 1
    assert said[0].startswith("no warnings in JupyterLab: ")


def test_the_configuration_only_adds_this_package() -> None:
    """Behind everything else, once, and without PYTHONPATH."""
    config = PACKAGE / "lab" / "config" / "jupyter_server_config.py"
    place = "/opt/torchroom/torchroom_welcome/lab/config/jupyter_server_config.py"
    lines = [
        "import sys",
        "old = list(sys.path)",
        f"run = compile(open({str(config)!r}).read(), 'config', 'exec')",
        f"for _ in range(2): exec(run, {{'__file__': {place!r}}})",
        "print(sys.path[len(old):], sys.path[:len(old)] == old)",
    ]
    assert python(*lines) == "['/opt/torchroom'] True"


def test_the_labextension_is_what_its_description_says() -> None:
    """The file is there, gives itself the name, and is asked for what it has."""
    told = json.loads((EXTENSION / "package.json").read_text())
    build = told["jupyterlab"]["_build"]
    script = (EXTENSION / build["load"]).read_text()
    assert f"window._JUPYTERLAB['{told['name']}']" in script
    assert f"module !== '{build['extension']}'" in script
    assert "http://" not in script
    assert "https://" not in script

"""When the hub, the database or the console itself is not there, nothing is guessed."""

import signal
import socket
from pathlib import Path

import pytest
from testbed.bare_hub import BareHub, bare_hub
from testbed.console import ConsoleProcess, console_process
from testbed.postgres import Postgres


def test_without_a_hub_nobody_is_let_in(tmp_path: Path) -> None:
    """503 and a sentence, also for somebody whose token was good a minute ago."""
    (tmp_path / "hub").mkdir()
    with bare_hub(tmp_path / "hub") as hub:
        alice, bob = hub.token("alice"), hub.token("bob")
        with console_process(hub, tmp_path, f"sqlite:///{tmp_path / 'l'}") as console:
            assert console.ask("GET", "/me", alice).status_code == 200
            hub.end()
            answer = console.ask("GET", "/me", bob)
            assert answer.status_code == 503
            assert answer.json()["code"] == "hub_unavailable"
            assert console.ask("GET", "/health").status_code == 200
            hub.begin()
            assert console.ask("GET", "/me", bob).status_code == 200


def test_a_hub_that_does_not_answer_is_waited_for_a_few_seconds(
    hub: BareHub, tmp_path: Path
) -> None:
    """A connection that is accepted and then left alone."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with console_process(
            hub,
            tmp_path,
            f"sqlite:///{tmp_path / 'l'}",
            JUPYTERHUB_API_URL=f"http://127.0.0.1:{port}/hub/api",
        ) as console:
            answer = console.ask("GET", "/me", hub.token("alice"))
    assert answer.status_code == 503


@pytest.mark.postgres
def test_without_a_database_the_answer_is_503(hub: BareHub, tmp_path: Path) -> None:
    """It says so, does not end, and goes on when the database is back."""
    with (
        Postgres() as server,
        server.database() as url,
        console_process(hub, tmp_path, url) as console,
    ):
        alice = hub.token("alice")
        assert console.ask("GET", "/me", alice).status_code == 200
        server.sql("ALTER DATABASE test_1 WITH ALLOW_CONNECTIONS false")
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = 'test_1'"
        )
        for path in ("/me", "/health"):
            answer = console.ask("GET", path, alice)
            assert answer.status_code == 503, answer.text
            assert answer.json()["code"] == "unavailable"
            assert "test_1" not in answer.text
        server.sql("ALTER DATABASE test_1 WITH ALLOW_CONNECTIONS true")
        assert console.ask("GET", "/me", alice).status_code == 200


def test_a_file_that_cannot_be_opened_ends_the_start_with_a_sentence(
    own_console: ConsoleProcess,
) -> None:
    """Not with a traceback."""
    own_console.url = "mysql://localhost/ledger"
    own_console.begin(waits=False)
    assert own_console.process is not None
    assert own_console.process.wait(30) == 1
    assert "The console cannot start: TORCHROOM_LEDGER_URL" in own_console.log()
    assert "Traceback" not in own_console.log()


def test_it_ends_cleanly_when_it_is_told_to(own_console: ConsoleProcess) -> None:
    """Within seconds, without an error in its log."""
    own_console.begin()
    assert own_console.end() in {0, -signal.SIGTERM}
    assert "ERROR" not in own_console.log()
    assert "Traceback" not in own_console.log()


def test_killed_without_warning_it_starts_again(
    own_console: ConsoleProcess, hub: BareHub
) -> None:
    """What was answered with 201 is there."""
    own_console.begin()
    own_console.post("/users/bob/grants", hub.token("ada"), {"microtokens": 7})
    assert own_console.process is not None
    own_console.process.kill()
    own_console.process.wait()
    own_console.begin()
    assert own_console.get("/me", hub.token("bob"))["available"] == 7


def test_no_token_is_in_the_log(own_console: ConsoleProcess, hub: BareHub) -> None:
    """Neither a user's nor its own nor the secret of top-ups."""
    own_console.begin()
    own_console.get("/me", hub.token("alice"))
    own_console.ask("GET", "/me", "forged" * 5)
    own_console.end()
    log = own_console.log()
    assert "listens" in log
    for secret in (hub.token("alice"), hub.keys["console"], "forged", "0123456789ab"):
        assert secret not in log

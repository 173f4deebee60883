"""The command line `torchroom ledger`, as an admin uses it."""

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from torchroom import cli, printing
from torchroom.ledger.database import Database
from torchroom.ledger.leases import Leases
from torchroom.ledger.model import MICRO, Course, Ending, Payer
from torchroom.ledger.planning import End
from torchroom.ledger.policy import Policy
from torchroom.ledger.service import Ledger
from torchroom.ledger.tables import accounts

T0 = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
Run = Callable[..., "Result"]


class Result:
    """What a call printed and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        """What --json printed."""
        return json.loads(self.out)


@pytest.fixture
def run(url: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls `torchroom ledger ARGUMENTS` on a fresh ledger."""

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        try:
            status = cli.main(["ledger", *arguments, "--url", url])
        except SystemExit as stop:  # how argparse ends
            status = int(stop.code or 0)
        return Result(status, *capsys.readouterr())

    return call


@pytest.fixture
def work(url: str) -> Callable[[Callable[[Ledger], Awaitable[None]]], None]:
    """Does something with the ledger that the command line does not offer."""

    def do(what: Callable[[Ledger], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with Ledger(Database.open(url), Policy()) as ledger:
                await what(ledger)

        asyncio.run(whole())

    return do


def test_a_grant_is_seen_in_balance_and_statement(run: Run) -> None:
    """What an admin gives is there at once, exact to the microtoken."""
    granted = run("grant", "alice", "12.500001", "--note", "Have fun.")
    assert granted.status == 0
    assert "alice got 12.500001 tokens." in granted.out
    assert "12.500001" in run("balance", "alice").out
    assert run("balance", "alice", "--json").json["available"] == 12_500_001
    statement = run("statement", "alice")
    assert "grant" in statement.out
    assert "Have fun." in statement.out
    items = run("statement", "alice", "--json").json["items"]
    assert [(each["code"], each["microtokens"]) for each in items] == [
        ("grant", 12_500_001)
    ]


def test_the_same_key_grants_once(run: Run) -> None:
    """A call that was repeated says so; another request under its key is refused."""
    first = run("grant", "alice", "5", "--key", "march")
    assert (first.status, first.out) == (0, "alice got 5 tokens.\n")
    again = run("grant", "alice", "5", "--key", "march")
    assert again.status == 0
    assert "Nothing was changed" in again.out
    other = run("grant", "alice", "6", "--key", "march")
    assert (other.status, other.out) == (1, "")
    assert run("balance", "alice", "--json").json["available"] == 5 * MICRO


def test_without_a_key_one_is_made_and_printed(run: Run) -> None:
    """Whoever loses the answer can ask again under the same key."""
    out = run("grant", "alice", "5").out
    key = out.splitlines()[0].removeprefix("Idempotency key: ")
    assert "Nothing was changed" in run("grant", "alice", "5", "--key", key).out
    told = run("grant", "alice", "5", "--json").json
    assert told["is_new"] is True
    assert told["key"].startswith("cli:")


@pytest.mark.parametrize(
    "arguments",
    [
        ["grant", "alice", "-5"],
        ["grant", "alice", "0"],
        ["grant", "alice", "1e3"],
        ["grant", "alice", "0.0000001"],
        ["grant", "alice", "99999999999"],
        ["grant", "alice", "1,5"],
        ["grant", "a/b", "5"],
        ["grant", "", "5"],
        ["grant", "x" * 300, "5"],
        ["grant", "alice\udcff", "5"],
        ["grant", "alice", "5", "--key", "a\nb"],
        ["grant", "alice", "5", "--key", "x" * 201],
        ["grant", "alice", "5", "--note", "x" * 501],
        ["grant", "alice", "5", "--expires", "tomorrow"],
        ["grant", "alice", "5", "--expires", "2020-01-01"],
        ["grant", "alice", "5", "--actor", "a\0b"],
        ["statement", "alice", "--cursor", "!"],
        ["statement", "alice", "--limit", "0"],
        ["import-credit-service", "nonsense", "--tokens-per-credit", "1"],
        ["import-credit-service", "sqlite://x", "--tokens-per-credit", "one"],
        ["balance"],
        ["nonsense"],
    ],
)
def test_a_wrong_call_is_status_2_and_a_sentence(
    run: Run, arguments: list[str]
) -> None:
    """Nothing is changed, nothing goes to stdout, and there is no traceback."""
    result = run(*arguments)
    assert result.status == 2, result
    assert result.out.partition("Idempotency key")[0] == ""
    assert "Traceback" not in result.err
    assert result.err.rstrip()
    assert run("export").out.count("\n") == 1


def test_a_course_that_is_not_there_is_refused(run: Run) -> None:
    """Refusals of the ledger are status 1, and one line."""
    result = run("grant", "alice", "5", "--course", "nowhere")
    assert result.status == 1
    assert result.err.count("\n") == 1
    assert result.err.startswith("torchroom: The ledger has no course 'nowhere'")


def test_a_server_is_one_line_of_a_statement(
    run: Run, work: Callable[..., None]
) -> None:
    """It says what, for how long, at which price, and what it cost in all."""

    async def story(ledger: Ledger) -> None:
        await ledger.prices.set(
            "NVIDIA T4", 12 * MICRO, valid_from=T0, at=T0, actor="admin"
        )
        await ledger.courses.put(Course("cs101", "Deep learning"), at=T0)
        await ledger.grants.grant(
            "alice", 50 * MICRO, key="k", actor="admin", at=T0, course="cs101"
        )
        leases = Leases(ledger.db, Policy())
        payer = Payer("alice", "lab", "cs101")
        await leases.hold("ls_1", payer, ["NVIDIA T4"], T0)
        await leases.ready("ls_1", T0)
        end = T0 + timedelta(minutes=90)
        await leases.end("ls_1", End(Ending.USED, end, "Stopped."), now=end)
        await leases.hold("ls_2", payer, ["NVIDIA T4"], datetime.now(UTC))

    work(story)
    statement = run("statement", "alice").out
    assert "lab: NVIDIA T4 for cs101, 1 h 30 m at 12/h. Stopped." in statement
    assert "-18" in statement
    full = run("statement", "alice", "--full").out
    assert "ls_1, ended by settle" in full
    balance = run("balance", "alice").out
    assert "held for servers" in balance
    assert "for cs101" in balance
    of_course = run("statement", "cs101", "--of", "course", "--json").json
    assert [each["lease_id"] for each in of_course["items"]] == ["ls_2", "ls_1"]
    assert "NVIDIA T4" in run("prices").out
    assert run("prices", "--json").json == {"NVIDIA T4": 12 * MICRO}
    assert run("verify").status == 0


def test_a_table_cannot_move_the_cursor_of_a_terminal() -> None:
    """Names of another hub may be anything; what is not printable is not printed."""
    assert printing.table(("name",), [("a\x1b[2J\r\nb",)]) == "name\na?[2J??b"


def test_a_long_statement_goes_on_with_its_cursor(run: Run) -> None:
    """Pages follow one another without a gap."""
    for amount in ("1", "2", "3"):
        run("grant", "alice", amount)
    first = run("statement", "alice", "--limit", "2")
    cursor = first.out.rpartition("--cursor ")[2].strip()
    rest = run("statement", "alice", "--limit", "2", "--cursor", cursor, "--json").json
    assert [each["microtokens"] for each in rest["items"]] == [1 * MICRO]
    assert rest["next"] is None


def test_verify_says_what_it_checked_and_what_is_wrong(
    run: Run, work: Callable[..., None]
) -> None:
    """A balance that is not the sum of its postings is status 1 and named."""
    run("grant", "alice", "5")
    fine = run("verify")
    assert fine.status == 0
    assert "Checked 1 transactions with 2 postings" in fine.out
    assert run("verify", "--json").json["ok"] is True

    async def tamper(ledger: Ledger) -> None:
        async with ledger.db.write() as conn:
            await conn.execute(
                sa.update(accounts).where(accounts.c.name == "alice").values(balance=7)
            )

    work(tamper)
    wrong = run("verify")
    assert wrong.status == 1
    assert "alice" in wrong.out
    told = run("verify", "--json")
    assert (told.status, told.json["ok"]) == (1, False)
    assert told.json["problems"]


def test_an_export_is_csv_or_lines_of_json(run: Run) -> None:
    """Both have every posting; a cell that a spreadsheet would run is quoted in CSV."""
    run("grant", "=alice", "5", "--note", "+1, or more", "--expires", "2099-01-01")
    rows = list(csv.DictReader(io.StringIO(run("export").out)))
    assert [row["microtokens"] for row in rows] == ["-5000000", "5000000"]
    assert [row["name"] for row in rows] == ["", "'=alice"]
    assert rows[0]["note"] == "'+1, or more"
    lines = run("export", "--format", "jsonl").out.splitlines()
    told = [json.loads(line) for line in lines]
    assert [each["name"] for each in told] == ["", "=alice"]
    assert told[1]["expires_at"] == "2099-01-01T00:00:00+00:00"


def test_upgrade_makes_a_ledger_and_may_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped place makes no empty ledger; upgrade is what makes one."""
    url = f"sqlite:///{tmp_path / 'new.sqlite'}"
    assert cli.main(["ledger", "verify", "--url", url]) == 1
    assert "torchroom ledger upgrade" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        assert cli.main(["ledger", "upgrade", "--url", url]) == 0
    assert cli.main(["ledger", "verify", "--url", url]) == 0


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("mysql://a:secret@b/c", 2),
        ("nonsense", 2),
        ("sqlite://", 2),
        ("postgresql://a:secret@/c?host=/nowhere", 1),
        ("sqlite:////proc/version", 1),
    ],
)
def test_a_database_that_cannot_be_used_is_one_sentence(
    url: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its password is never printed."""
    for command in ("verify", "upgrade"):
        assert cli.main(["ledger", command, "--url", url]) == status
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("torchroom: ")
        assert captured.err.count("\n") == 1
        assert "secret" not in captured.err


def test_a_file_without_tables_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older ledger, or none: the sentence has what the database says."""
    path = tmp_path / "empty.sqlite"
    path.touch()
    url = f"sqlite:///{path}"
    assert cli.main(["ledger", "balance", "alice", "--url", url]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "no such table" in captured.err


# -------------------------------------------------------------- as a program of its own


@pytest.fixture
def environment(url: str) -> dict[str, str]:
    """The environment of a hub's container, as far as the ledger is concerned."""
    return {**os.environ, "TORCHROOM_LEDGER_URL": url}


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "torchroom.cli", "ledger", *arguments]


def test_it_runs_as_a_module_and_takes_the_place_from_the_environment(
    environment: dict[str, str],
) -> None:
    """What `docker compose exec hub torchroom ledger` does."""
    done = subprocess.run(
        program("grant", "älice 🦊", "1.5"),
        env={**environment, "LC_ALL": "C"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    shown = subprocess.run(
        program("balance", "älice 🦊", "--json"),
        env=environment,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert json.loads(shown.stdout)["available"] == 1_500_000


def test_a_reader_who_has_seen_enough_ends_an_export_quietly(
    environment: dict[str, str], work: Callable[..., None]
) -> None:
    """`torchroom ledger export | head -1` is no error."""

    async def fill(ledger: Ledger) -> None:
        for n in range(400):
            await ledger.grants.grant(
                "alice", 1, key=f"k{n}", actor="admin", at=T0, note="x" * 500
            )

    work(fill)
    export = subprocess.Popen(
        program("export"),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert export.stdout is not None
    assert export.stderr is not None
    assert export.stdout.readline().startswith(b"posting,")
    export.stdout.close()
    assert export.stderr.read() == b""
    export.stderr.close()
    assert export.wait(60) == 0


def test_wallets_of_another_hub_are_carried_over(run: Run, tmp_path: Path) -> None:
    """A dry run first, then the run, then again: the table says what became of each."""
    theirs = tmp_path / "jupyterhub.sqlite"
    columns = "balance INT, cap INT, grant_value INT, grant_interval INT, "
    columns += "grant_last_update TEXT, user_options TEXT"
    with sa.create_engine(f"sqlite:///{theirs}").begin() as conn:
        for statement in (
            f"CREATE TABLE credits_project (name TEXT, display_name TEXT, {columns})",
            "CREATE TABLE credits_user (name TEXT, spawner_bills TEXT)",
            f"CREATE TABLE credits_user_values (id INT, name TEXT, {columns}, "
            "user_name TEXT, project_name TEXT)",
            "INSERT INTO credits_user VALUES ('alice', '{}')",
            "INSERT INTO credits_user_values VALUES "
            "(1, 'default', 40, 100, 5, 300, '', NULL, 'alice', NULL)",
        ):
            conn.execute(sa.text(statement))
    call = [
        "import-credit-service", f"sqlite:///{theirs}", "--tokens-per-credit", "0.25",
    ]  # fmt: skip
    dry = run(*call, "--dry-run")
    assert dry.status == 0
    assert "1 wallets would be carried over with 10 tokens" in dry.out
    assert "would become: for any server" in dry.out
    assert run("balance", "alice", "--json").json["available"] == 0
    assert "1 wallets were carried over with 10 tokens" in run(*call).out
    assert "was carried over before" in run(*call).out
    assert run("balance", "alice", "--json").json["available"] == 10 * MICRO
    told = run(*call, "--json").json
    assert told["wallets"][0]["was_before"] is True
    assert len(told["remarks"]) == 1

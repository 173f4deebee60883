"""Schemathesis asks everything that the API's document allows, and what it does not.

It sends thousands of requests made from the OpenAPI document, valid ones and broken
ones, and holds the answers against it: no 5xx, no status, shape or type of content that
is not described, and no success without a token.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import requests
from testbed.bare_hub import COURSE, BareHub
from testbed.console import ConsoleProcess

EXAMPLES = 6  # of each operation, besides those at the edges of every schema
WITHIN_S = 300
NOT_CHECKED = "positive_data_acceptance"
"""A document cannot say that a student has no tokens left, or that a key is used up."""


def fuzz(console: ConsoleProcess, folder: Path, token: str, **known: str) -> None:
    """Run Schemathesis with this token; fail with what it found.

    Args:
        console: Who is asked.
        folder: For what Schemathesis writes.
        token: Whose requests; some go without it, and must be refused.
        known: Values of parameters that are there, so that routes find something.
    """
    config = folder / "schemathesis.toml"
    lines = [f'"path.{name}" = "{value}"' for name, value in known.items()]
    config.write_text("\n".join(["[parameters]", *lines]))
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        f"--config-file={config}",
        "run",
        f"{console.base}/openapi.json",
        "--phases=examples,coverage,fuzzing",
        "--generation-deterministic",
        f"--max-examples={EXAMPLES}",
        f"--exclude-checks={NOT_CHECKED}",
        "--no-color",
        f"--header=Authorization: Bearer {token}",
    ]
    found = subprocess.run(
        command,
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    assert "35 / 35" in found.stdout or "35/35" in found.stdout
    assert "Traceback" not in console.log(), console.log()[-8000:]


def everything(console: ConsoleProcess, hub: BareHub) -> dict[str, Any]:
    """What a user without rights must not change."""
    ada = hub.token("ada")
    told = {
        path: console.get(path, ada)
        for path in ("/ledger", "/courses", "/prices", "/vouchers")
    }
    told["/ledger"].pop("last_audit")
    return told


def fill(console: ConsoleProcess, hub: BareHub) -> None:
    """Make a course, a budget and tokens, so that there is something to take."""
    ada = hub.token("ada")
    body = {"title": "Machine learning", "student_cap": None}
    console.ask("PUT", f"/courses/{COURSE}", ada, json=body)
    for path in (f"/courses/{COURSE}/budget", "/users/alice/grants"):
        console.post(path, ada, {"microtokens": 10**12})


def check_sums(console: ConsoleProcess, hub: BareHub) -> None:
    """All tokens are somewhere."""
    told = console.get("/ledger", hub.token("ada"))
    parts = ("users", "courses", "held", "revenue")
    assert told["issued"] == sum(told[part] for part in parts)


def test_an_admins_requests_are_answered_as_described(
    fresh_console: ConsoleProcess, hub: BareHub, tmp_path: Path
) -> None:
    """With names of all kinds, on both databases; tokens still add up."""
    fuzz(fresh_console, tmp_path, hub.token("ada"))
    check_sums(fresh_console, hub)


def test_an_admins_requests_about_what_is_there_are_answered_as_described(
    own_console: ConsoleProcess, hub: BareHub, tmp_path: Path
) -> None:
    """With a user and a course that exist, so that tokens move."""
    own_console.begin()
    fill(own_console, hub)
    fuzz(own_console, tmp_path, hub.token("ada"), course=COURSE, user="alice")
    check_sums(own_console, hub)


def test_whoever_has_no_right_changes_nothing(
    own_console: ConsoleProcess, hub: BareHub, tmp_path: Path
) -> None:
    """A student gets nothing but their own; what needs a token is refused without."""
    own_console.begin()
    fill(own_console, hub)
    before = everything(own_console, hub)
    fuzz(own_console, tmp_path, hub.token("alice"), course=COURSE, user="alice")
    assert everything(own_console, hub) == before


def test_every_operation_says_whom_it_wants(console: ConsoleProcess) -> None:
    """In the document: a token, but for a signed message and the health check."""
    document = requests.get(f"{console.base}/openapi.json", timeout=20).json()
    public = {
        path.partition("/api/v1")[2]
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if not operation.get("security")
    }
    assert public == {"/health", "/webhooks/topup"}


def test_every_refusal_has_one_shape_in_the_document(console: ConsoleProcess) -> None:
    """{"code", "message"}, and a 422 is no exception."""
    document = requests.get(f"{console.base}/openapi.json", timeout=20).json()
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Problem"}

"""A real hub and a real console with all roles."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from roles.operations import Place
from testbed.console import console_process
from testbed.role_hub import COURSE, OTHER_COURSE, role_hub


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Both, with two courses."""
    folder: Path = tmp_path_factory.mktemp("console")
    url = f"sqlite:///{folder / 'ledger.sqlite'}"
    with (
        role_hub(tmp_path_factory.mktemp("hub")) as hub,
        console_process(hub, folder, url) as console,
    ):
        for course in (COURSE, OTHER_COURSE):
            body = {"title": course, "student_cap": None}
            console.ask("PUT", f"/courses/{course}", hub.keys["root"], json=body)
        yield Place(hub, console)

"""Seeding follows new versions and never overwrites what a student wrote (I6)."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from gpuspawner.homes import read_tree
from gpuspawner.seeding import (
    MANIFEST,
    MAX_NOTEBOOK,
    Owner,
    Record,
    Standing,
    archive,
    beside,
    digest,
    folders,
    is_worth_reading,
    plan,
    read_manifest,
    record,
    write_manifest,
)
from hypothesis import given, settings
from hypothesis import strategies as st

V1, V2 = b"version one", b"version two"
PATH = "examples/a.py"
ENDLESS = b'{"a": {"sha256": "x", "size": Infinity}}'
DEEP = b"[" * 10**5
LAID_V1 = {PATH: Record(digest(V1), len(V1))}
EDITED = Standing(b"edited")

jupyter: Any = nbformat  # most of it has no types

SHIPPED = Path(__file__).resolve().parents[2] / "welcome" / "home" / "welcome.ipynb"
BOOK = "welcome.ipynb"
BOOK_V1 = SHIPPED.read_bytes()
BOOK_V2 = BOOK_V1.replace(b"Welcome to", b"At home in")
BOOK_V3 = BOOK_V1.replace(b"Welcome to", b"Back in")
LAID_BOOK = {BOOK: record(BOOK, BOOK_V1)}
BESIDE_BOOK = beside(BOOK, 1)


def notebook(content: bytes, first: str = "") -> bytes:
    """The notebook as JupyterLab saves it once it ran; maybe with a new first cell."""
    found = jupyter.reads(content.decode(), as_version=jupyter.NO_CONVERT)
    found.metadata.language_info.version = "3.11.2"
    for cell in found.cells:
        if cell.cell_type == "code":
            cell.execution_count = 1
            cell.outputs = [jupyter.v4.new_output("stream", text="an output\n")]
    if first:
        found.cells.insert(0, jupyter.v4.new_markdown_cell(first))
    text: str = jupyter.writes(found, version=jupyter.NO_CONVERT)
    return text.encode() + b"\n"


RUN_V1 = Standing(notebook(BOOK_V1))
MINE = Standing(notebook(BOOK_V1, first="mine"))


def test_an_empty_home_gets_everything() -> None:
    """The first start lays every file."""
    assert plan({PATH: V1}, {}, {}).writes == {PATH: V1}


def test_an_untouched_file_follows_the_new_version() -> None:
    """Nobody wants last year's examples."""
    found = plan({PATH: V2}, LAID_V1, {PATH: Standing(V1)})
    assert found.writes == {PATH: V2}


def test_an_edited_file_is_kept_and_the_new_version_laid_beside_it() -> None:
    """Under a name that says what it is."""
    found = plan({PATH: V2}, LAID_V1, {PATH: EDITED})
    assert found.writes == {"examples/a (new version).py": V2}
    assert found.beside == {"examples/a (new version).py": PATH}


def test_the_same_new_version_is_offered_once() -> None:
    """A student who deletes the copy beside is not asked again."""
    first = plan({PATH: V2}, LAID_V1, {PATH: EDITED})
    assert plan({PATH: V2}, first.manifest, {PATH: EDITED}).writes == {}


def test_an_edit_of_the_current_version_gets_nothing_beside_it() -> None:
    """There is nothing new to offer."""
    assert plan({PATH: V1}, LAID_V1, {PATH: EDITED}).writes == {}


def test_a_deleted_file_comes_back() -> None:
    """Deleting and restarting is how to get a fresh copy."""
    assert plan({PATH: V1}, LAID_V1, {PATH: None}).writes == {PATH: V1}


def test_an_edited_copy_beside_is_kept_too() -> None:
    """The next version gets the next name."""
    first = plan({PATH: V2}, LAID_V1, {PATH: EDITED})
    third = b"version three"
    name = beside(PATH, 1)
    found = plan({PATH: third}, first.manifest, {PATH: EDITED, name: EDITED})
    assert found.writes == {"examples/a (new version 2).py": third}


def test_a_notebook_that_was_only_opened_and_run_follows_the_new_version() -> None:
    """JupyterLab saves it by itself after two minutes: nobody wrote anything."""
    found = plan({BOOK: BOOK_V2}, LAID_BOOK, {BOOK: RUN_V1})
    assert found.writes == {BOOK: BOOK_V2}
    assert found.manifest == {BOOK: record(BOOK, BOOK_V2)}


def test_a_notebook_that_was_run_keeps_its_outputs_until_a_new_version_comes() -> None:
    """Another start of the server writes nothing."""
    assert plan({BOOK: BOOK_V1}, LAID_BOOK, {BOOK: RUN_V1}).writes == {}
    assert plan({BOOK: BOOK_V1}, LAID_BOOK, {BOOK: Standing()}).writes == {}


def test_a_new_version_of_the_same_texts_leaves_the_outputs_alone() -> None:
    """What would be laid stands there already; one that was not run gets it."""
    tidied = BOOK_V1 + b"\n"
    found = plan({BOOK: tidied}, LAID_BOOK, {BOOK: RUN_V1})
    assert found.writes == {}
    again = plan({BOOK: BOOK_V2}, found.manifest, {BOOK: RUN_V1})
    assert again.writes == {BOOK: BOOK_V2}
    as_laid = plan({BOOK: tidied}, LAID_BOOK, {BOOK: Standing(BOOK_V1)})
    assert as_laid.writes == {BOOK: tidied}


def test_a_notebook_that_was_edited_and_run_is_kept() -> None:
    """The new version is laid beside it."""
    found = plan({BOOK: BOOK_V2}, LAID_BOOK, {BOOK: MINE})
    assert found.writes == {BESIDE_BOOK: BOOK_V2}


@pytest.mark.parametrize(
    "now",
    [
        Standing(),
        Standing(b"edited"),
        Standing(BOOK_V1[:-30] + b"x"),
        Standing(b'{"cells": [], "metadata": {}, "nbformat": 4}'),
        Standing(BOOK_V1 + b" " * MAX_NOTEBOOK),
    ],
    ids=["a folder or link", "no notebook", "half of one", "emptied", "huge"],
)
@pytest.mark.parametrize("laid", [LAID_BOOK, {}], ids=["recorded", "not recorded"])
def test_whatever_else_stands_there_is_kept(
    now: Standing, laid: dict[str, Record]
) -> None:
    """If it cannot be told whether somebody wrote in it, somebody did."""
    assert plan({BOOK: BOOK_V2}, laid, {BOOK: now}).writes == {BESIDE_BOOK: BOOK_V2}


def test_a_notebook_that_was_laid_before_texts_were_recorded_is_recorded_now() -> None:
    """A record of an earlier version of this program says only the file's sha256."""
    old = read_manifest(
        json.dumps({BOOK: {"sha256": digest(BOOK_V1), "size": len(BOOK_V1)}}).encode()
    )
    found = plan({BOOK: BOOK_V1}, old, {BOOK: Standing()})
    assert found.writes == {}
    assert found.manifest == LAID_BOOK
    offered = {BOOK: Record(digest(BOOK_V1), len(BOOK_V1), offered="other")}
    kept = plan({BOOK: BOOK_V1}, offered, {BOOK: Standing()}).manifest[BOOK]
    assert (kept.offered, kept.written) == ("other", LAID_BOOK[BOOK].written)


def test_a_run_notebook_is_known_again_after_the_manifest_was_lost() -> None:
    """It has the texts of the version that would be laid."""
    found = plan({BOOK: BOOK_V1}, {}, {BOOK: RUN_V1})
    assert found.writes == {}
    assert found.manifest == LAID_BOOK


def test_a_copy_beside_that_was_only_opened_makes_way_for_the_next_one() -> None:
    """The student has one new version to read, not three."""
    second = plan({BOOK: BOOK_V2}, LAID_BOOK, {BOOK: MINE})
    current = {BOOK: MINE, BESIDE_BOOK: Standing(notebook(BOOK_V2))}
    third = plan({BOOK: BOOK_V3}, second.manifest, current)
    assert third.writes == {BESIDE_BOOK: BOOK_V3}
    current[BESIDE_BOOK] = Standing(notebook(BOOK_V2, first="mine"))
    assert plan({BOOK: BOOK_V3}, second.manifest, current).writes == {
        beside(BOOK, 2): BOOK_V3
    }


def test_a_seeding_that_was_interrupted_is_made_up_for() -> None:
    """A full disk leaves the beginning of a file, or an empty one, and no manifest."""
    for length in (0, 1, len(V1) - 1):
        found = plan({PATH: V1}, {}, {PATH: Standing(V1[:length])})
        assert found.writes == {PATH: V1}
    assert plan({PATH: V2}, LAID_V1, {PATH: Standing(b"")}).writes == {PATH: V2}
    for length in (0, 1, 3000, len(BOOK_V2) - 5):
        cut = Standing(BOOK_V2[:length])
        assert plan({BOOK: BOOK_V2}, LAID_BOOK, {BOOK: cut}).writes == {BOOK: BOOK_V2}
    current = {BOOK: MINE, BESIDE_BOOK: Standing(BOOK_V2[:3000])}
    found = plan({BOOK: BOOK_V2}, LAID_BOOK, current)
    assert found.writes == {BESIDE_BOOK: BOOK_V2}
    current[BESIDE_BOOK] = Standing(BOOK_V2)
    assert plan({BOOK: BOOK_V2}, LAID_BOOK, current).writes == {}


def test_a_text_that_its_owner_shortened_stays_short() -> None:
    """To cut the end off is an edit."""
    short = {PATH: Standing(V2[:-3])}
    assert PATH not in plan({PATH: V2}, LAID_V1, short).writes


def test_only_files_that_may_be_ours_are_read() -> None:
    """The others may be of any size, and there is a start of a server to wait for."""
    laid, huge = LAID_BOOK[BOOK], 10**12
    assert is_worth_reading(PATH, len(V1), V1, None)
    assert is_worth_reading(PATH, 0, V1, None)
    assert is_worth_reading(BOOK, laid.size, BOOK_V2, laid)
    assert is_worth_reading(BOOK, 10**6, BOOK_V2, laid)
    assert not is_worth_reading(BOOK, 10**6, BOOK_V1, laid), "nothing new to lay"
    assert not is_worth_reading(BOOK, MAX_NOTEBOOK + 1, BOOK_V2, laid)
    assert not is_worth_reading(PATH, len(V1) + 1, V1, None)
    assert not is_worth_reading(PATH, huge, V1, Record("", huge))


def test_a_damaged_manifest_means_nothing_is_known_so_nothing_is_overwritten() -> None:
    """A student may write anything into it."""
    for text in (
        b"",
        b"[]",
        b"nonsense",
        b'{"a": 1}',
        b'{"a": {"sha256": 1}}',
        None,
        ENDLESS,
        DEEP,
    ):
        assert read_manifest(text) == {}
    assert PATH not in plan({PATH: V2}, {}, {PATH: Standing(V1)}).writes


def book(*cells: str, **run: object) -> bytes:
    """A small notebook."""
    rows = [
        {"cell_type": "markdown", "metadata": {}, "source": text, **run}
        for text in cells
    ]
    return json.dumps({"cells": rows, "metadata": {}, "nbformat": 4}).encode()


texts = st.binary(max_size=4) | st.text("ab", max_size=2).map(book)
paths = st.sampled_from(["a", "b.txt", "d/c.ipynb"])


@settings(max_examples=300)
@given(
    st.lists(st.dictionaries(paths, texts, max_size=3), min_size=1, max_size=6),
    st.data(),
)
def test_whatever_happens_no_edit_is_lost(
    versions: list[dict[str, bytes]], data: st.DataObject
) -> None:
    """Any sequence of versions, edits and deletions: every edit stays as it is."""
    home: dict[str, bytes] = {}
    edits: dict[str, bytes] = {}
    manifest: dict[str, Record] = {}
    for n, version in enumerate(versions):
        names = {*version, *(beside(p, i) for p in version for i in (1, 2, 3))}
        current = {name: Standing(home[name]) for name in names if name in home}
        found = plan(version, manifest, current)
        home |= found.writes
        manifest = read_manifest(write_manifest(found.manifest))
        assert manifest == found.manifest
        for name, text in edits.items():
            assert home[name] == text
        for name in sorted(home):
            what = data.draw(
                st.sampled_from(["keep", "run", "edit", "write", "delete"])
            )
            if what == "edit":
                home[name] = edits[name] = b"by the student %d" % n
            elif what == "write":
                home[name] = edits[name] = book("by the student", str(n), outputs=[])
            elif what == "run":
                home[name] = home[name].replace(
                    b'"source"', b'"outputs": [1], "source"'
                )
                if name in edits:
                    edits[name] = home[name]
            elif what == "delete":
                del home[name]
                edits.pop(name, None)


def test_what_programs_leave_beside_the_material_is_not_laid(tmp_path: Path) -> None:
    """An instructor may have opened it in JupyterLab where it lies."""
    for name in ("a/b.py", "a/__pycache__/b.pyc", "a/.ipynb_checkpoints/b.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    assert read_tree(tmp_path) == {"a/b.py": b"one"}


def test_folders_come_with_their_parents_first() -> None:
    """So that what is in the way is met at the top."""
    assert folders(["a/b/c.py", "a/d.py", "e.py"]) == ["a", "a/b"]


def test_the_archive_holds_folders_and_files_of_the_owner() -> None:
    """Everything belongs to the student."""
    packed = archive({PATH: V1, MANIFEST: b"{}"}, Owner(1000, 100), 1e9)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        found = {member.name: member for member in tar}
    assert set(found) == {"examples", PATH, ".gpuspawner", MANIFEST}
    assert all((m.uid, m.gid, m.mtime) == (1000, 100, 1e9) for m in found.values())

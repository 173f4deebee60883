"""Seeding follows new versions and never overwrites what a student wrote (I6)."""

import io
import tarfile

from gpuspawner.seeding import (
    MANIFEST,
    Owner,
    Record,
    archive,
    beside,
    digest,
    plan,
    read_manifest,
    write_manifest,
)
from hypothesis import given, settings
from hypothesis import strategies as st

V1, V2 = b"version one", b"version two"
PATH = "examples/a.ipynb"
ENDLESS = b'{"a": {"sha256": "x", "size": Infinity}}'
DEEP = b"[" * 10**5
LAID_V1 = {PATH: Record(digest(V1), len(V1))}


def test_an_empty_home_gets_everything() -> None:
    """The first start lays every file."""
    assert plan({PATH: V1}, {}, {}).writes == {PATH: V1}


def test_an_untouched_file_follows_the_new_version() -> None:
    """Nobody wants last year's examples."""
    found = plan({PATH: V2}, LAID_V1, {PATH: digest(V1)})
    assert found.writes == {PATH: V2}


def test_an_edited_file_is_kept_and_the_new_version_laid_beside_it() -> None:
    """Under a name that says what it is."""
    found = plan({PATH: V2}, LAID_V1, {PATH: "edited"})
    assert found.writes == {"examples/a (new version).ipynb": V2}
    assert found.beside == {"examples/a (new version).ipynb": PATH}


def test_the_same_new_version_is_offered_once() -> None:
    """A student who deletes the copy beside is not asked again."""
    first = plan({PATH: V2}, LAID_V1, {PATH: "edited"})
    assert plan({PATH: V2}, first.manifest, {PATH: "edited"}).writes == {}


def test_an_edit_of_the_current_version_gets_nothing_beside_it() -> None:
    """There is nothing new to offer."""
    assert plan({PATH: V1}, LAID_V1, {PATH: "edited"}).writes == {}


def test_a_deleted_file_comes_back() -> None:
    """Deleting and restarting is how to get a fresh copy."""
    assert plan({PATH: V1}, LAID_V1, {PATH: None}).writes == {PATH: V1}


def test_an_edited_copy_beside_is_kept_too() -> None:
    """The next version gets the next name."""
    first = plan({PATH: V2}, LAID_V1, {PATH: "edited"})
    third = b"version three"
    name = beside(PATH, 1)
    found = plan({PATH: third}, first.manifest, {PATH: "edited", name: "edited"})
    assert found.writes == {"examples/a (new version 2).ipynb": third}


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
    assert PATH not in plan({PATH: V2}, {}, {PATH: digest(V1)}).writes


texts = st.binary(max_size=4)
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
        current = {name: digest(home[name]) for name in names if name in home}
        found = plan(version, manifest, {name: current.get(name) for name in names})
        home |= found.writes
        manifest = read_manifest(write_manifest(found.manifest))
        assert manifest == found.manifest
        for name, text in edits.items():
            assert home[name] == text
        for name in sorted(home):
            what = data.draw(st.sampled_from(["keep", "edit", "delete"]))
            if what == "edit":
                home[name] = edits[name] = b"by the student %d" % n
            elif what == "delete":
                del home[name]
                edits.pop(name, None)


def test_the_archive_holds_folders_and_files_of_the_owner() -> None:
    """Everything belongs to the student."""
    packed = archive({PATH: V1, MANIFEST: b"{}"}, Owner(1000, 100), 1e9)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        found = {member.name: member for member in tar}
    assert set(found) == {"examples", PATH, ".gpuspawner", MANIFEST}
    assert all((m.uid, m.gid, m.mtime) == (1000, 100, 1e9) for m in found.values())

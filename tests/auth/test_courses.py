"""courses.toml while a hub runs: changed, broken, gone."""

import os
from pathlib import Path

import pytest
from torchroom.auth.courses import SIZE_MAX, Courses
from torchroom.settings import SettingError


def test_without_a_file_nobody_is_in_anything() -> None:
    assert Courses(None).membership.is_empty


def test_a_changed_file_counts_at_once(tmp_path: Path) -> None:
    path = tmp_path / "courses.toml"
    path.write_text('admins = ["ada"]')
    courses = Courses(path)
    assert courses.membership.standing("ada").is_admin
    assert courses.membership is courses.membership
    path.write_text('admins = ["augusta"]')
    assert not courses.membership.standing("ada").is_admin
    assert courses.membership.standing("augusta").is_admin


def test_a_file_that_an_editor_replaced_counts_as_well(tmp_path: Path) -> None:
    path, draft = tmp_path / "courses.toml", tmp_path / "draft"
    path.write_text('admins = ["ada"]')
    courses = Courses(path)
    draft.write_text('admins = ["eve"]')
    os.utime(draft, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    draft.replace(path)
    assert courses.membership.standing("eve").is_admin


@pytest.mark.parametrize(
    "text", ["", "# nobody\n", "[", "admin = []", "admins = [1]", "\xff"]
)
def test_what_breaks_while_the_hub_runs_changes_nothing(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "courses.toml"
    path.write_text('admins = ["ada"]')
    courses = Courses(path)
    path.write_bytes(text.encode("latin-1"))
    assert courses.membership.standing("ada").is_admin
    assert "goes on to count" in caplog.text
    path.unlink()
    assert courses.membership.standing("ada").is_admin
    path.write_text('admins = ["eve"]')
    assert courses.membership.standing("eve").is_admin


def test_a_file_that_is_just_being_saved_removes_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Editors empty a file and write it then: whoever asks in between stays."""
    path = tmp_path / "courses.toml"
    path.write_text('admins = ["ada"]')
    courses = Courses(path)
    path.write_text("")
    assert courses.membership.standing("ada").is_admin
    assert "names nobody" in caplog.text


BROKEN = {
    "no TOML": (b"[", "is not TOML"),
    "capitals": (b'admins = ["Ada"]', "'Ada'.*small letters: 'ada'"),
    "unknown": (b"students = []", "'students' is not known"),
    "no text": (b"\xff\xfe", "is not plain text"),
    "too big": (b"#" * (SIZE_MAX + 1), "has more than"),
}


@pytest.mark.parametrize(("text", "words"), BROKEN.values(), ids=BROKEN)
def test_at_the_start_it_is_an_error(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "courses.toml"
    path.write_bytes(text)
    with pytest.raises(SettingError, match=words):
        Courses(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        Courses(tmp_path)


def test_the_example_is_one() -> None:
    root = Path(__file__).resolve().parents[2]
    found = Courses(root / "courses.example.toml").membership
    assert found.courses
    assert not found.is_empty

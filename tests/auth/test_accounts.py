"""Names and the accounts that they belong to."""

import sqlite3
from pathlib import Path

import pytest
from torchroom.auth.accounts import Accounts

ISSUER = "https://id.school.edu"


def test_a_name_belongs_to_the_first_account(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "a.sqlite")
    assert accounts.name_of(ISSUER, "1") is None
    assert accounts.bind("ada", ISSUER, "1")
    assert accounts.bind("ada", ISSUER, "1")
    assert not accounts.bind("ada", ISSUER, "2")
    assert not accounts.bind("ada", "https://other.edu", "1")
    assert accounts.name_of(ISSUER, "1") == "ada"


def test_an_account_keeps_its_name(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "a.sqlite")
    assert accounts.bind("ada", ISSUER, "1")
    assert not accounts.bind("augusta", ISSUER, "1")
    assert accounts.bind("augusta", ISSUER, "2")


def test_a_released_name_is_free_and_all_outlives_a_restart(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "a.sqlite")
    accounts.bind("ada", ISSUER, "1")
    accounts.bind("eve", ISSUER, "2")
    accounts.release("ada")
    accounts.close()
    again = Accounts(tmp_path / "a.sqlite")
    assert again.name_of(ISSUER, "1") is None
    assert again.name_of(ISSUER, "2") == "eve"
    assert again.bind("ada", ISSUER, "3")


def test_others_cannot_read_it(tmp_path: Path) -> None:
    Accounts(tmp_path / "a.sqlite").bind("ada", ISSUER, "1")
    assert (tmp_path / "a.sqlite").stat().st_mode & 0o077 == 0


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_text("no database at all" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        Accounts(tmp_path / "a.sqlite")

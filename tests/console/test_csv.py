"""A table opened in a spreadsheet shows what was written and runs nothing."""

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchroom.console.csv_export import CHUNK_ROWS, Cell, lines, safe

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "=cmd|' /C calc'!A0"]


async def rows(*found: Sequence[Cell]) -> AsyncIterator[Sequence[Cell]]:
    for row in found:
        yield row


async def text_of(header: Sequence[str], *found: Sequence[Cell]) -> str:
    return b"".join([part async for part in lines(header, rows(*found))]).decode()


@pytest.mark.parametrize("text", FORMULAS)
def test_text_is_never_a_formula(text: str) -> None:
    """A quote goes in front, and nothing is lost."""
    assert safe(text) == f"'{text}"


@given(st.text())
def test_no_text_begins_like_a_formula(text: str) -> None:
    """Whatever somebody called themselves."""
    written = str(safe(text)).lstrip(" ")
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_amounts_below_zero_stay_numbers() -> None:
    """A payment is not text."""
    assert safe(-5) == -5


def test_times_are_utc_and_nothing_is_empty() -> None:
    """None has no word of its own in a table."""
    assert safe(datetime(2026, 3, 31, 12, tzinfo=UTC)) == "2026-03-31T12:00:00.000000Z"
    assert safe(None) == ""


async def test_a_table_reads_back_as_it_was() -> None:
    """Commas, quotes and line breaks within cells included, over many chunks."""
    wanted = [(f'a"{n},\nb', n) for n in range(2 * CHUNK_ROWS + 1)]
    text = await text_of(["name", "n"], *wanted)
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read[0] == ["name", "n"]
    assert [(name, int(n)) for name, n in read[1:]] == wanted


async def test_a_table_without_rows_has_its_header() -> None:
    """So nobody thinks that the file is broken."""
    assert await text_of(["a", "b"]) == "a,b\r\n"

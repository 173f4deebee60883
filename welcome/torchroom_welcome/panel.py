"""A panel: what a notebook displays, as HTML and as plain text. No I/O.

Every text is escaped. `Backticks` mark commands and appear as code in HTML.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Literal

STEP = 1024

Level = Literal["good", "info", "warn", "bad", "banner"]

_MARKS = {"good": "✔", "info": "·", "warn": "!", "bad": "✘", "banner": "▲"}
# Jupyter's theme variables, so that panels read well in light and dark.
_COLOURS = {
    "good": "var(--jp-success-color1, #2e7d32)",
    "info": "var(--jp-border-color1, #9e9e9e)",
    "warn": "var(--jp-warn-color1, #ef6c00)",
    "bad": "var(--jp-error-color1, #c62828)",
}
_BOX = (
    "border:1px solid var(--jp-border-color2, #e0e0e0); border-radius:8px;"
    "padding:12px 16px; margin:4px 0; max-width:60em; font-size:14px; line-height:1.5"
)
_BANNER = (
    "background:#ffd54f; color:#212121; border-radius:6px; padding:6px 12px;"
    "margin:6px 0; font-weight:600"
)
_CELL = "text-align:left; padding:3px 18px 3px 0; vertical-align:top"
_MUTED = f"{_CELL}; font-weight:600; opacity:.7"


@dataclass(frozen=True)
class Note:
    """One sentence for the student, with how serious it is."""

    level: Level
    text: str


@dataclass(frozen=True)
class Table:
    """A small table; every row is as long as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, repr=False)
class Panel:
    """A title, then banners, named values, a table and notes, in this order."""

    title: str
    rows: tuple[tuple[str, str], ...] = ()
    table: Table | None = None
    notes: tuple[Note, ...] = ()

    def __repr__(self) -> str:
        lines = [f"── {self.title} ".ljust(72, "─")]
        lines += [f"  ▲ {note.text}" for note in self.notes if note.level == "banner"]
        width = max((len(label) for label, _ in self.rows), default=0)
        lines += [f"  {label.ljust(width)}  {value}" for label, value in self.rows]
        if self.table is not None:
            lines += _aligned(self.table)
        lines += [
            f"  {_MARKS[note.level]} {note.text}"
            for note in self.notes
            if note.level != "banner"
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        banners = [note for note in self.notes if note.level == "banner"]
        others = [note for note in self.notes if note.level != "banner"]
        parts = [f'<div style="{_BOX}"><b>{_rich(self.title)}</b>']
        parts += [f'<div style="{_BANNER}">▲ {_rich(b.text)}</div>' for b in banners]
        if self.rows:
            parts.append(_grid(self.rows))
        if self.table is not None:
            parts.append(_grid(self.table.rows, self.table.header))
        parts += [_note(one) for one in others]
        return "".join(parts) + "</div>"


def _aligned(table: Table) -> list[str]:
    rows = (table.header, *table.rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.header))]
    return [
        "  "
        + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _grid(rows: tuple[tuple[str, ...], ...], header: tuple[str, ...] = ()) -> str:
    """Rows as an HTML table; without a header the first column is the label."""
    head = "".join(f'<th style="{_MUTED}">{_rich(cell)}</th>' for cell in header)
    body = ""
    for row in rows:
        styles = [_CELL if header or i else _MUTED for i in range(len(row))]
        cells = (
            f'<td style="{s}">{_rich(c)}</td>' for s, c in zip(styles, row, strict=True)
        )
        body += f"<tr>{''.join(cells)}</tr>"
    return f'<table style="margin:6px 0; border-collapse:collapse">{head}{body}</table>'


def _note(note: Note) -> str:
    style = (
        f"border-left:4px solid {_COLOURS[note.level]};"
        "padding:2px 0 2px 10px; margin:6px 0"
    )
    return f'<div style="{style}">{_MARKS[note.level]} {_rich(note.text)}</div>'


def _rich(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def bytes_text(count: int) -> str:
    """Bytes for people, in binary units: 85899345920 -> '80 GiB'."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < STEP:
            break
        value, unit = value / STEP, larger
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"

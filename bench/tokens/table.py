"""What was measured, as a table with bars."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PEER, SQLITE, POSTGRES = "credit-service", "SQLite", "PostgreSQL"
SIDES = (PEER, SQLITE, POSTGRES)
STEP_S = 60  # from one pass to the next
Measured = Mapping[str, Any]
"""Of one side: measurement -> its figures."""
Figure = Callable[[Measured], float | None]


@dataclass(frozen=True)
class Row:
    """One line.

    Attributes:
        what: What was measured.
        measured: Which measurement has it.
        figure: Takes it from there; None if that side has no such figure.
        bar: It must be less than this; None: no bar.
        barred: On these sides.
    """

    what: str
    measured: str
    figure: Figure
    bar: float | None = None
    barred: tuple[str, ...] = (SQLITE,)

    def values(self, sides: Mapping[str, Measured]) -> dict[str, float]:
        """Return the figure of each side that has it."""
        found = {
            side: self.figure(sides[side][self.measured])
            for side in SIDES
            if self.measured in sides.get(side, {})
        }
        return {side: value for side, value in found.items() if value is not None}

    def verdict(self, values: Mapping[str, float]) -> str:
        """Return the bar and PASS or FAIL, "" without a bar or a value."""
        barred = [values[side] for side in self.barred if side in values]
        if self.bar is None or not barred:
            return ""
        return f"< {self.bar:g}  " + ("PASS" if max(barred) < self.bar else "FAIL")


def _of(part: str, unit: str) -> Figure:
    return lambda raw: raw[part].get(unit)


def _plain(unit: str) -> Figure:
    return lambda raw: raw.get(unit)


def _mean(unit: str, factor: float = 1) -> Figure:
    return lambda raw: factor * sum(x[unit] for x in raw["steady"]) / len(raw["steady"])


def _most(unit: str) -> Figure:
    return lambda raw: max(x[unit] for x in raw["steady"])


def _page(full: int, unit: str) -> Figure:
    return lambda raw: raw["pages"][full][unit]


def _per_second(raw: Measured) -> float:
    return float(raw["starts"] / raw["wall_s"])


def _let_through(measured: str, what: str) -> list[Row]:
    return [
        Row(what, measured, _plain("started")),
        Row("  stopped by the next pass", measured, _plain("stopped by the next pass")),
        Row("  answers per second", measured, _per_second),
        Row("  p50 ms, the wait for the others too", measured, _plain("p50 ms")),
        Row("  p99 ms", measured, _plain("p99 ms")),
        Row("  event loop stood still, ms", measured, _plain("loop_ms")),
    ]


def _pages(full: int, what: str) -> list[Row]:
    ours = (SQLITE, POSTGRES)
    return [
        Row(f"{what}, p50 ms", "pages", _page(full, "p50 ms"), 50, ours),
        Row(f"{what}, p99 ms", "pages", _page(full, "p99 ms"), 50, ours),
        Row("  p99 CPU ms of the reader", "pages", _page(full, "p99 CPU ms")),
    ]


PASSES = [
    Row("all are due: s", "passes", _of("everything", "wall_s"), bar=3),
    Row("  CPU s", "passes", _of("everything", "cpu_s")),
    Row("  CPU s of the database's server", "passes", _of("everything", "server_s")),
    Row(
        "  the hub's event loop stood still, ms", "passes", _of("everything", "loop_ms")
    ),
    Row("  servers charged", "passes", _plain("charged at once")),
    Row(
        "one pass a minute: % of a core", "passes", _mean("cpu_s", 100 / STEP_S), bar=5
    ),
    Row("  s, mean", "passes", _mean("wall_s")),
    Row("  s, longest", "passes", _most("wall_s")),
    Row("  the hub's event loop stood still, ms", "passes", _most("loop_ms")),
    Row("none is due: s", "passes", _of("idle", "wall_s")),
    Row("memory, MiB", "passes", _plain("memory MiB")),
]
WALLET = [
    *_let_through("wallet", "let through, one process"),
    *_let_through("processes", "let through, four processes"),
]
PAGES = [*_pages(0, "as people read it"), *_pages(1, "every posting")]


def lines(
    sections: Mapping[str, list[Row]], sides: Mapping[str, Measured]
) -> Iterator[str]:
    """Yield the table, line by line; missed bars end in FAIL."""
    for heading, rows in sections.items():
        yield ""
        yield f"{heading:46}" + "".join(f"{side:>16}" for side in SIDES) + "    bar"
        for row in rows:
            values = row.values(sides)
            if values:
                cells = "".join(f"{_text(values.get(side)):>16}" for side in SIDES)
                yield f"  {row.what:44}{cells}    {row.verdict(values)}".rstrip()


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) or value >= 100:  # noqa: PLR2004 - three digits are shown
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004

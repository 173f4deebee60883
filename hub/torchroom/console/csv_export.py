"""Tables as CSV: streamed, and harmless when a spreadsheet opens them.

A spreadsheet runs text that begins with = + - or @ as a formula, and a user's name or a
note may be such a text: it gets a ' in front. Numbers stay numbers.
"""

import csv
import io
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from datetime import datetime

from starlette.responses import StreamingResponse

Cell = str | int | datetime | None
CHUNK_ROWS = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def safe(cell: Cell) -> str | int:
    """Return what is written for a value; text is never a formula, None is empty."""
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return f"{cell:%Y-%m-%dT%H:%M:%S.%fZ}"
    if isinstance(cell, str) and cell.lstrip(" ").startswith(_FORMULA):
        return f"'{cell}"
    return cell


async def lines(
    header: Sequence[str], rows: AsyncIterable[Sequence[Cell]]
) -> AsyncIterator[bytes]:
    """Yield the table, CHUNK_ROWS rows at a time."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    count = 0
    async for row in rows:
        writer.writerow([safe(cell) for cell in row])
        count += 1
        if count % CHUNK_ROWS == 0:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


async def answer(
    name: str, header: Sequence[str], rows: AsyncIterable[Sequence[Cell]]
) -> StreamingResponse:
    """Return the table as a file to save; what fails before its first rows raises.

    Args:
        name: Of the file, without its ending; plain letters and hyphens.
    """
    table = lines(header, rows)
    first = await anext(table)

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for chunk in table:
            yield chunk

    return StreamingResponse(
        whole(),
        media_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )

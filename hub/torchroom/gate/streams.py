"""Moving bytes between two connections without keeping them."""

import asyncio
import contextlib
import re
from dataclasses import dataclass

from torchroom.gate.errors import Malformed

CHUNK = 64 * 1024
_SIZE = re.compile(rb"[0-9a-fA-F]{1,8}\r\n")


@dataclass(frozen=True, slots=True)
class Connection:
    """Both directions of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Write, and wait until the other side keeps up."""
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        """Hang up."""
        self.writer.close()


async def connect(path: str) -> Connection:
    """Connect to a unix socket.

    Raises:
        OSError: Nobody listens.
    """
    return Connection(*await asyncio.open_unix_connection(path, limit=CHUNK))


async def pump(source: Connection, sink: Connection) -> None:
    """Move everything until the source ends."""
    while data := await source.reader.read(CHUNK):
        await sink.send(data)


async def send_length(source: Connection, sink: Connection, length: int) -> None:
    """Move so many bytes and not one more.

    Raises:
        Malformed: The source ended before.
    """
    while length:
        data = await source.reader.read(min(length, CHUNK))
        if not data:
            raise Malformed("the body broke off")
        length -= len(data)
        await sink.send(data)


async def send_chunks(source: Connection, sink: Connection) -> None:
    """Move a chunked body, each chunk written anew.

    Raises:
        Malformed: It is not in the plain form, without extensions and trailers.
    """
    try:
        while True:
            line = await source.reader.readuntil(b"\r\n")
            if not _SIZE.fullmatch(line):
                raise Malformed("a chunk has no plain size")
            size = int(line, 16)
            if size:
                await sink.send(b"%x\r\n" % size)
                await send_length(source, sink, size)
            if await source.reader.readexactly(2) != b"\r\n":
                raise Malformed("a chunk does not end where it says")
            await sink.send(b"\r\n" if size else b"0\r\n\r\n")
            if not size:
                return
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise Malformed("the body broke off") from None


async def swallow(source: Connection, most: int, within_s: float) -> None:
    """Read what still comes, so that the sender gets to read its answer."""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(within_s):
            while most > 0 and (data := await source.reader.read(CHUNK)):
                most -= len(data)

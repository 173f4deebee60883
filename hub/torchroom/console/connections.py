"""How long a connection may take to ask, and who gives way when there are too many.

Without it a few hundred connections that never ask anything would shut the console for
everybody: uvicorn itself waits for a request for ever, and counts who waits.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_WITHIN_S = 10


class PromptProtocol(H11Protocol):
    """Closes a connection whose request has no end of headers in HEADERS_WITHIN_S.

    Of too many connections the one that has waited longest without asking is closed at
    once, so that one that asks is served.
    """

    _due: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override] # as uvicorn's
        self, transport: asyncio.Transport
    ) -> None:
        """Make room for a connection, and wait for what it asks."""
        super().connection_made(transport)
        self._make_room()
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Wait no longer once all headers are there."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._due is None:  # a later request, whose headers have begun
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing."""
        self._forget()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._due = self.loop.call_later(HEADERS_WITHIN_S, self._give_up)

    def _forget(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        self._forget()
        self.transport.abort()

    def _make_room(self) -> None:
        """Close the connection that has waited longest, if there are too many."""
        if self.limit_concurrency is None:
            return
        if len(self.connections) < self.limit_concurrency:
            return
        waiting = [
            (each._due.when(), id(each), each)
            for each in self.connections
            if isinstance(each, PromptProtocol) and each._due is not None
        ]
        if waiting:
            _, _, longest = min(waiting)
            longest._give_up()

"""The queue: the tickets of servers that wait for slots, and what their owners read.

A ticket survives a restart of the hub; backfill.py says whose turn it is.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from math import ceil

from gpuspawner import backfill
from gpuspawner.model import Owner, SlotKind, SlotRequest
from gpuspawner.tickets import Moment, Place, Reach, Ticket, Wait, age

RETURN_S = 180.0  # to find the spawn page again after a hub restart
IN_MINUTES = 120  # more are told in hours


def describe(place: Place) -> str:
    """Return what its owner reads."""
    begin = f"You are number {place.position} in the queue"
    if not place.is_possible:
        return (
            f"{begin}, but too few GPUs of this kind work at the moment. "
            "Wait until they are repaired, or cancel and choose another size."
        )
    if place.wait_s is None:
        return f"{begin}; how long it takes cannot be said yet."
    return f"{begin}; {_about(place.wait_s)} (an estimate)."


def _about(seconds: float) -> str:
    minutes = ceil(seconds / 60)
    if minutes <= 1:
        return "about a minute"
    return (
        f"about {minutes} minutes"
        if minutes < IN_MINUTES
        else f"about {round(minutes / 60)} hours"
    )


class Queue:
    """The tickets. Changed by join, leave and start only; the rest are questions."""

    def __init__(self) -> None:
        self._waits: dict[str, Wait] = {}

    @property
    def tickets(self) -> tuple[Ticket, ...]:
        """All, by when they asked; also those whose owner has not come back yet."""
        return tuple(wait.ticket for wait in sorted(self._waits.values(), key=age))

    def join(self, ticket: Ticket) -> Ticket:
        """Let a server wait, and return its ticket.

        A server that waits already for the same keeps its ticket and its place; if it
        asks for something else it loses them.

        Raises:
            ValueError: It asks for no slots, or another server has a ticket of this id.
        """
        if ticket.request.n_slots < 1:
            raise ValueError("only a request for slots can wait")
        for wait in list(self._waits.values()):
            old = wait.ticket
            if old.owner != ticket.owner:
                continue
            if old.request == ticket.request and not wait.is_gone(ticket.asked_at):
                kept = replace(old, course=ticket.course)
                self._waits[old.id] = replace(wait, ticket=kept, absent_until=None)
                return kept
            self.leave(old.id)
        if ticket.id in self._waits:
            raise ValueError(f"ticket {ticket.id} exists")
        self._waits[ticket.id] = Wait(ticket)
        return ticket

    def leave(self, ticket_id: str) -> None:
        """Forget a ticket: cancelled, or its time is over. Safe to call twice."""
        self._waits.pop(ticket_id, None)

    def start(self, ticket_id: str, slots: frozenset[str], reach: Reach) -> None:
        """Forget a ticket because it got these slots, and note whom it overtook."""
        backfill.start(self._waits, ticket_id, slots, reach)

    def expired(self, now: datetime, limit_s: float) -> tuple[Ticket, ...]:
        """Return the tickets that must leave now.

        They waited `limit_s` seconds, or their owner did not come back in RETURN_S
        seconds after a restart of the hub.
        """
        limit = timedelta(seconds=limit_s)
        return tuple(
            ticket
            for ticket in self.tickets
            if now - ticket.asked_at >= limit or self._waits[ticket.id].is_gone(now)
        )

    def startable(self, moment: Moment) -> list[tuple[Ticket, frozenset[str]]]:
        """Return who starts now, in order, each with its slots; see backfill.py.

        Give them out and call `start` for each, before anything else changes.
        """
        return backfill.startable(self._waits, moment)

    def places(self, moment: Moment) -> dict[str, Place]:
        """Return ticket id -> where it stands, in order; see backfill.py."""
        return backfill.places(self._waits, moment)

    def to_json(self) -> dict[str, object]:
        """Return what `from_json` takes."""
        return {
            "tickets": [
                asdict(wait.ticket)
                | {
                    "asked_at": wait.ticket.asked_at.isoformat(),
                    "n_overtaken": wait.n_overtaken,
                }
                for wait in self._waits.values()
            ]
        }

    @classmethod
    def from_json(cls, value: object, now: datetime) -> "Queue":
        """Return the queue `to_json` was called on, with everybody absent.

        Each keeps its place for RETURN_S seconds; `join` brings it back.

        Raises:
            ValueError: The value is not from there.
        """
        queue, until = cls(), now + timedelta(seconds=RETURN_S)
        try:
            for entry in value["tickets"]:  # type: ignore[index]
                ticket = Ticket(
                    str(entry["id"]),
                    Owner(str(entry["owner"]["user"]), str(entry["owner"]["server"])),
                    _request(entry["request"]),
                    datetime.fromisoformat(entry["asked_at"]),
                    str(entry["course"]),
                )
                if ticket.asked_at.tzinfo is None:
                    raise ValueError(f"ticket {ticket.id} has a time without a zone")
                if any(old.owner == ticket.owner for old in queue.tickets):
                    raise ValueError(f"{ticket.owner} has two tickets")
                queue.join(ticket)
                queue._waits[ticket.id] = Wait(
                    ticket, max(0, int(entry["n_overtaken"])), until
                )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is not a queue: {error!r}") from error
        return queue


def _request(entry: Mapping[str, object]) -> SlotRequest:
    request = SlotRequest(**entry)  # type: ignore[arg-type]
    request = replace(request, kind=SlotKind(request.kind))
    if type(request.n_slots) is not int or type(request.min_memory_bytes) is not int:
        raise ValueError("a request counts in whole numbers")
    return request

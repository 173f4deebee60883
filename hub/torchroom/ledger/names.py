"""Which names, notes and keys the ledger takes, whoever sends them."""

import re

from torchroom.ledger.errors import BadInput

NAME_MAX = 255
NOTE_MAX = 500
KEY_MAX = 200
ACTOR_MAX = NAME_MAX + len("service ")
SHOWN = 40
# C0, DEL, C1, line and paragraph separators, and halves of surrogate pairs, which no
# database stores.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_KEY = re.compile(r"[!-~](?:[ -~]{0,198}[!-~])?")


def _shown(text: str) -> str:
    """Return text as an error may quote it: short, and safe to print."""
    return ascii(text[:SHOWN])


def check_name(text: str, what: str) -> str:
    """Return the name of a user or a course, unchanged.

    Args:
        text: The name.
        what: What it names, for the sentence: "A user's name".

    Raises:
        BadInput: Empty, over 255 characters, with a slash, a control character, or a
            space at an end.
    """
    if not 1 <= len(text) <= NAME_MAX:
        raise BadInput(f"{what} has 1 to {NAME_MAX} characters, not {len(text)}.")
    if text != text.strip() or "/" in text or _CONTROL.search(text):
        raise BadInput(
            f"{what} cannot be {_shown(text)}: it must not have slashes or control "
            "characters, or begin or end with a space."
        )
    return text


def check_note(text: str, what: str = "A note", *, most: int = NOTE_MAX) -> str:
    """Return a sentence for people, unchanged; it may be empty.

    Raises:
        BadInput: Over so many characters, or with a control character such as a line
            break.
    """
    if len(text) > most:
        raise BadInput(f"{what} has at most {most} characters, not {len(text)}.")
    if _CONTROL.search(text):
        raise BadInput(f"{what} must be one line without control characters.")
    return text


def check_actor(text: str) -> str:
    """Return who asked, unchanged: a user's name, "service NAME", or whoever else.

    Raises:
        BadInput: Over 263 characters, or with a control character.
    """
    return check_note(text, "An actor", most=ACTOR_MAX)


def check_key(text: str) -> str:
    """Return an idempotency key, unchanged.

    Raises:
        BadInput: Not 1 to 200 printable ASCII characters, or with a space at an end.
    """
    if not _KEY.fullmatch(text):
        raise BadInput(
            f"An idempotency key is 1 to {KEY_MAX} printable ASCII characters without "
            f"a space at its ends, not {_shown(text)}."
        )
    return text

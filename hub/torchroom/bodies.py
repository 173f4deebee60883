"""What JupyterHub's REST API may be sent: the shapes that its handlers rely on. Pure.

JupyterHub 6 checks much of it itself. What it does not, ends in an error of the hub and
a traceback in its log, at the will of whoever has a token. So this is looked at before.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

SIZE_MAX = 1_000_000
DEPTH_MAX = 20
NAME_MAX = 255
TEXT_MAX = 10_000
NUMBER_MAX = 2**53
DIGITS_MAX = 9
YEARS = range(1970, 3000)
JSON = Any


def check_names(names: Iterable[str | None]) -> None:
    """Check names in a path, decoded; one that is not there is fine.

    Raises:
        ValueError: One is no name; a sentence.
    """
    for name in names:
        if name is not None and not _is_name(name):
            raise ValueError(
                f"A name in the address is longer than {NAME_MAX} characters, begins "
                "or ends with a space, or has characters that cannot be shown."
            )


def check_query(arguments: Mapping[str, Iterable[bytes]]) -> None:
    """Check arguments as they came, of a query or a form.

    Raises:
        ValueError: One is no text, or too large a number; a sentence.
    """
    for key, values in arguments.items():
        shown = ascii(key)[:100]
        for value in values:
            try:
                digits = value.decode().strip().lstrip("+-")
            except UnicodeDecodeError as error:
                raise ValueError(f"{shown} is not UTF-8.") from error
            if digits.isdigit() and len(digits) > DIGITS_MAX:
                raise ValueError(f"{shown} is too large a number.")


def check_body(
    body: bytes, *, only: frozenset[str] | None = None, keys_are_free: bool = False
) -> None:
    """Check a body that should be JSON; none is fine.

    Args:
        body: As it was sent.
        only: The keys that there are; None: others than those we know may be, too.
        keys_are_free: They are names that somebody chose, and mean nothing.

    Raises:
        ValueError: It cannot be used; a sentence.
    """
    found = _parse(body)
    if found is None:
        return
    if not isinstance(found, dict):
        raise ValueError("The body must be a JSON object.")  # noqa: TRY004 - a sentence
    _check_values(found)
    unknown = sorted(found.keys() - only) if only is not None else []
    if unknown:
        known = ", ".join(sorted(only or ()))
        raise ValueError(f"There is no {ascii(unknown[0])[:100]} here, only {known}.")
    for key, value in found.items() if not keys_are_free else ():
        check, kind = KNOWN.get(key, (_is_anything, ""))
        if not check(value):
            raise ValueError(f"{key} must be {kind}.")


def check_name_stays(body: bytes, name: str) -> None:
    """Check that what changes a user does not change their name.

    Raises:
        ValueError: It does; a sentence.
    """
    found = _parse(body)
    if isinstance(found, dict) and found.get("name", name) != name:
        raise ValueError(
            "A user's name belongs to their account at the identity provider, so it "
            "stays. Delete the user: the next login makes one with the name of then."
        )


def check_text(body: bytes) -> None:
    """Check a body that is a form.

    Raises:
        ValueError: It is no text; a sentence.
    """
    if len(body) > SIZE_MAX:
        raise ValueError(f"The body has more than {SIZE_MAX} bytes.")
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise ValueError("The body is not UTF-8.") from error


def _parse(body: bytes) -> JSON:
    check_text(body)
    if not body.strip():
        return None
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError("The body is not JSON.") from error


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _check_values(value: JSON, depth: int = 1) -> None:
    """Refuse what a database or a log cannot take, anywhere in it."""
    match value:
        case _ if depth > DEPTH_MAX:
            raise ValueError(f"The body is nested deeper than {DEPTH_MAX} levels.")
        case str() if "\0" in value or not _is_unicode(value):
            raise ValueError("A text in the body has characters that are none.")
        case str() if len(value) > TEXT_MAX:
            raise ValueError(f"A text in the body has more than {TEXT_MAX} characters.")
        case bool() | None:
            return
        case int() | float() if not abs(value) <= NUMBER_MAX:
            raise ValueError("A number in the body is too large.")
        case dict():
            for key, each in value.items():
                _check_values(key, depth)
                _check_values(each, depth + 1)
        case list():
            for each in value:
                _check_values(each, depth + 1)


def _is_unicode(text: str) -> bool:
    """Whether there is no half of a pair in it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_name(value: JSON) -> bool:
    return (
        isinstance(value, str)
        and len(value) <= NAME_MAX
        and value.isprintable()
        and value == value.strip()
        and value not in {".", ".."}
        and "/" not in value
    )


def _is_names(value: JSON) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, str) and 0 < len(each) <= NAME_MAX for each in value
    )


def _is_text(value: JSON) -> bool:
    return value is None or isinstance(value, str)


def _is_bool(value: JSON) -> bool:
    return isinstance(value, bool)


def _is_number(value: JSON) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or is_number


def _is_object(value: JSON) -> bool:
    return value is None or isinstance(value, dict)


def _is_time(value: JSON) -> bool:
    if value is None:
        return True
    try:
        found = datetime.fromisoformat(value).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return False
    return found.year in YEARS


def _is_servers(value: JSON) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, dict) and _is_time(each.get("last_activity"))
        for each in value.values()
    )


def _is_anything(_value: JSON) -> bool:
    return True


KNOWN: Mapping[str, tuple[Callable[[JSON], bool], str]] = {
    **dict.fromkeys(
        ("usernames", "users", "groups", "roles", "scopes"),
        (_is_names, "a list of names"),
    ),
    **dict.fromkeys(
        ("name", "note", "display_name", "user", "group", "code", "api_url"),
        (_is_text, "text"),
    ),
    **dict.fromkeys(("admin", "remove", "shutdown"), (_is_bool, "true or false")),
    **dict.fromkeys(("auth_state", "user_options"), (_is_object, "an object")),
    "expires_in": (_is_number, "a number of seconds"),
    "last_activity": (_is_time, "an ISO 8601 time"),
    "servers": (_is_servers, "an object of servers with their last_activity"),
}
"""Key -> what it must be, wherever JupyterHub has it."""

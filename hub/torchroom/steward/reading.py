"""Reads the policy file. Pure: from TOML text to a Policy, or a sentence why not."""

import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import time, timedelta
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

from torchroom.ledger.amounts import parse_tokens
from torchroom.ledger.errors import BadInput
from torchroom.steward.rules import AfterHours, Policy, Rules
from torchroom.steward.windows import DAYS, Window

LONGEST = timedelta(days=366)
EXTENSIONS_MAX = 100
NAMES_MAX = {"course": 1000, "size": 100}
_MINUTE_S, _HOUR_S = 60, 3600
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_MIDNIGHT = "24:00"

Read = Callable[[str, Any], Any]
"""Returns a value; raises PolicyError with the place, which is its first argument."""


class PolicyError(Exception):
    """The policy file cannot be used; a sentence that says where and why."""


def read(text: str) -> Policy:
    """Return the policy of a file.

    Raises:
        PolicyError: It is no TOML, or something in it is not as it must be.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"It is not TOML: {error}.") from error
    _only(found, {"default", "size", "course"}, "the file")
    default = _table(_part(found, "default", "the file"), "[default]", _KEYS)
    sizes = {
        name: _table(row, f'[size."{name}"]', _KEYS)
        for name, row in _named(found, "size", "the file").items()
    }
    courses, both = {}, {}
    for course, row in _named(found, "course", "the file").items():
        where = f"[course.{course}]"
        own = {key: value for key, value in row.items() if key != "size"}
        courses[course] = _table(own, where, _KEYS | _OF_COURSE)
        for size, inner in _named(row, "size", where).items():
            place = f'[course.{course}.size."{size}"]'
            both[course, size] = _table(inner, place, _KEYS)
    policy = Policy(default, sizes, courses, both)
    _check_all(policy)
    return policy


# -- values --------------------------------------------------------------------------


def _minutes(where: str, value: Any) -> timedelta:
    return _duration(where, value, _MINUTE_S, "minutes")


def _minutes_or_never(where: str, value: Any) -> timedelta | None:
    return None if value is False else _minutes(where, value)


def _hours_or_never(where: str, value: Any) -> timedelta | None:
    return None if value is False else _duration(where, value, _HOUR_S, "hours")


def _minutes_or_none(where: str, value: Any) -> timedelta:
    is_none = value == 0 and not isinstance(value, bool)
    return timedelta() if is_none else _minutes(where, value)


def _duration(where: str, value: Any, unit_s: int, name: str) -> timedelta:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Compared before it is multiplied: neither nan nor inf nor 10**400 gets further.
    if not is_number or not 0 < value <= LONGEST.total_seconds() / unit_s:
        raise PolicyError(
            f"{where} must be a number of {name}, more than 0 and at most a year."
        )
    return timedelta(seconds=value * unit_s)


def _yes_or_no(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(f"{where} must be true or false.")
    return value


def _n_extensions(where: str, value: Any) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= EXTENSIONS_MAX:
        raise PolicyError(f"{where} must be a whole number from 0 to {EXTENSIONS_MAX}.")
    return int(value)


def _price(where: str, value: Any) -> int:
    if not isinstance(value, str):
        raise PolicyError(f'{where} must be tokens in quotes, like "1.5".')
    try:
        return parse_tokens(value)
    except BadInput as error:
        raise PolicyError(f"{where}: {error}") from error


def _after_hours(where: str, value: Any) -> AfterHours:
    if not isinstance(value, str) or value not in set(AfterHours):
        raise PolicyError(f'{where} must be "keep" or "stop".')
    return AfterHours(value)


def _windows(where: str, value: Any) -> tuple[Window, ...]:
    if not isinstance(value, list):
        raise PolicyError(
            f'{where} must be a list like [{{days = ["mon"], from = "14:00", '
            'to = "16:00", timezone = "Europe/Berlin"}].'
        )
    return tuple(_window(f"{where}[{i}]", row) for i, row in enumerate(value))


def _window(where: str, row: Any) -> Window:
    if not isinstance(row, dict):
        raise PolicyError(f"{where} must be a table with days, from, to and timezone.")
    _only(row, {"days", "from", "to", "timezone"}, where)
    days = row.get("days")
    if (
        not isinstance(days, list)
        or not days
        or not all(isinstance(day, str) and day in DAYS for day in days)
    ):
        raise PolicyError(f"{where}: days must be some of {', '.join(DAYS)} in quotes.")
    return Window(
        frozenset(DAYS.index(day) for day in days),
        _time(f"{where}: from", row.get("from")),
        _time(f"{where}: to", row.get("to"), or_midnight=True),
        _zone(f"{where}: timezone", row.get("timezone")),
    )


def _time(where: str, value: Any, *, or_midnight: bool = False) -> time:
    if or_midnight and value == _MIDNIGHT:
        return time(0)
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise PolicyError(f'{where} must be a time in quotes, like "14:00".')
    return time(int(found[1]), int(found[2]))


def _zone(where: str, value: Any) -> ZoneInfo:
    try:
        return ZoneInfo(value)
    except (ValueError, TypeError, OSError, LookupError, AttributeError) as error:
        raise PolicyError(
            f'{where} must be the name of a time zone, like "Europe/Berlin".'
        ) from error


_KEYS: dict[str, tuple[str, Read]] = {
    "idle_minutes": ("gpu_idle", _minutes_or_never),
    "several_gpus_idle_minutes": ("several_gpus_idle", _minutes_or_never),
    "grace_minutes": ("grace", _minutes_or_none),
    "unwanted_idle_minutes": ("unwanted_idle", _minutes),
    "warn_minutes": ("warn_before", _minutes),
    "max_age_hours": ("max_age", _hours_or_never),
    "max_age_stops_busy": ("max_age_stops_busy", _yes_or_no),
    "cpu_idle_minutes": ("cpu_idle", _minutes_or_never),
    "extend_minutes": ("extend_by", _minutes),
    "extensions": ("n_extensions", _n_extensions),
    "extension_price": ("extend_price", _price),
    "dry_run": ("is_dry_run", _yes_or_no),
}
"""Key -> attribute of Rules, and how its value is read."""

_OF_COURSE: dict[str, tuple[str, Read]] = {
    "windows": ("windows", _windows),
    "after_hours": ("after_hours", _after_hours),
}
"""Keys that only a course has."""


# -- tables --------------------------------------------------------------------------


def _table(
    row: Any, where: str, keys: Mapping[str, tuple[str, Read]]
) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise PolicyError(f"{where} must be a table.")
    for key in _OF_COURSE.keys() & row.keys() - keys.keys():
        raise PolicyError(f"{where}: {key} can be set for a whole course only.")
    _only(row, keys.keys(), where)
    return {
        keys[key][0]: keys[key][1](f"{where}: {key}", value)
        for key, value in row.items()
    }


def _part(row: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = row.get(key, {})
    if not isinstance(found, dict):
        raise PolicyError(f"{where}: {key!r} must be a table.")
    return found


def _named(row: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = _part(row, key, where)
    if len(found) > NAMES_MAX[key]:
        raise PolicyError(f"{where}: more than {NAMES_MAX[key]} tables of {key!r}.")
    for name, inner in found.items():
        if not name.strip():
            raise PolicyError(f"{where}: a table of {key!r} has an empty name.")
        if not isinstance(inner, dict):
            raise PolicyError(
                f'{where}: {name!r} must be in a table of its own, [{key}."NAME"].'
            )
    return found


def _only(row: Mapping[str, Any], known: Any, where: str) -> None:
    unknown = sorted(row.keys() - known)
    if unknown:
        names = ", ".join(sorted(known))
        raise PolicyError(f"{where}: {unknown[0]!r} is not known. Known: {names}.")


# -- what must fit together ----------------------------------------------------------


def _check_all(policy: Policy) -> None:
    """Look at every combination that a server can have."""
    courses = {"", *policy.courses}
    sizes = {"", *policy.sizes, *(size for _, size in policy.both)}
    for course, size in sorted(product(courses, sizes)):
        of = [f"course {course!r}" * bool(course), f"size {size!r}" * bool(size)]
        where = " and ".join(filter(None, of)) or "everybody"
        _check(policy.rules(course, size), where)


def _check(rules: Rules, where: str) -> None:
    for key, lasts in {
        "idle_minutes": rules.gpu_idle,
        "several_gpus_idle_minutes": rules.several_gpus_idle,
        "cpu_idle_minutes": rules.cpu_idle,
        "unwanted_idle_minutes": rules.unwanted_idle,
        "max_age_hours": rules.max_age,
    }.items():
        if lasts is not None and lasts <= rules.warn_ahead:
            unit = timedelta(seconds=_HOUR_S if key == "max_age_hours" else _MINUTE_S)
            warned = rules.warn_before / timedelta(seconds=_MINUTE_S)
            raise PolicyError(
                f"For {where}, {key} is {lasts / unit:g}; it must be more than "
                f"{rules.warn_ahead / unit:g}: users are warned warn_minutes "
                f"({warned:g}) before a stop, and up to a minute earlier."
            )
    if rules.after_hours is AfterHours.STOP and not rules.windows:
        raise PolicyError(
            f'For {where}, after_hours = "stop" needs windows: it has no hours.'
        )

"""Who belongs to which course, and who runs the hub: pure decisions on courses.toml.

A course is a JupyterHub group of its name. Whoever instructs one is in it, too, and in
a second group, to which the scopes of its instructors are given.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

COURSE = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?")
COURSES_MAX = 1000
OF_INSTRUCTORS = "instructors-of-"
"""Before a course's name: the group of its instructors."""

_TOP = frozenset({"admins", "admin_groups", "course"})
_COURSE = frozenset(
    {"title", "students", "student_groups", "instructors", "instructor_groups"}
)


class MembershipError(Exception):
    """courses.toml cannot be used; a sentence that says where and why."""


@dataclass(frozen=True, slots=True)
class Roll:
    """Some people: by name, and by group of the identity provider."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def has(self, user: str, groups: frozenset[str]) -> bool:
        """Whether somebody with this name and these groups is among them."""
        return user in self.users or not self.groups.isdisjoint(groups)


@dataclass(frozen=True, slots=True)
class Course:
    """A course: its title for people, and who is in it."""

    name: str
    title: str
    students: Roll = Roll()
    instructors: Roll = Roll()


@dataclass(frozen=True, slots=True)
class Standing:
    """What somebody is on this hub.

    Attributes:
        courses: Those that they are in, instructors too.
        taught: Those of them that they instruct.
        is_admin: Whether they run the hub.
    """

    courses: tuple[str, ...] = ()
    taught: tuple[str, ...] = ()
    is_admin: bool = False

    @property
    def is_member(self) -> bool:
        """Whether they may use this hub at all."""
        return self.is_admin or bool(self.courses)

    @property
    def groups(self) -> tuple[str, ...]:
        """Their groups on the hub, in order."""
        return (*self.courses, *(OF_INSTRUCTORS + name for name in self.taught))


@dataclass(frozen=True, slots=True)
class Membership:
    """All courses by name, and the admins."""

    courses: Mapping[str, Course] = field(default_factory=dict)
    admins: Roll = Roll()

    @property
    def is_empty(self) -> bool:
        """Whether nobody belongs to anything."""
        return not self.courses and self.admins == Roll()

    def standing(self, user: str, provider_groups: Iterable[str] = ()) -> Standing:
        """Return what a user is.

        Args:
            user: The name on the hub.
            provider_groups: What the identity provider says now.
        """
        groups = frozenset(provider_groups)
        taught = [c.name for c in self.courses.values()
                  if c.instructors.has(user, groups)]  # fmt: skip
        taken = [c.name for c in self.courses.values() if c.students.has(user, groups)]
        return Standing(
            courses=tuple(sorted({*taken, *taught})),
            taught=tuple(sorted(taught)),
            is_admin=self.admins.has(user, groups),
        )


def read(text: str) -> Membership:
    """Return what courses.toml says.

    Raises:
        MembershipError: It is no TOML, or a key or value is not one of ours.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MembershipError(f"courses.toml is not TOML: {error}.") from error
    _only(found, _TOP, "courses.toml")
    rows = found.get("course", {})
    if not isinstance(rows, dict) or len(rows) > COURSES_MAX:
        raise MembershipError(
            f"courses.toml: write each course as [course.NAME], at most {COURSES_MAX}."
        )
    courses = {name: _course(name, row) for name, row in rows.items()}
    return Membership(courses, _roll(found, "admins", "admin_groups", "courses.toml"))


def _course(name: str, row: Any) -> Course:
    where = f"courses.toml, course {name!r}"
    if not COURSE.fullmatch(name) or name.startswith(OF_INSTRUCTORS):
        raise MembershipError(
            f"{where}: a name is 1 to 40 of a-z 0-9 . _ -, begins and ends with a "
            f"letter or digit, and does not begin with {OF_INSTRUCTORS!r}."
        )
    if not isinstance(row, dict):
        raise MembershipError(f"{where}: write it as [course.{name}].")
    _only(row, _COURSE, where)
    title = row.get("title", name)
    if not isinstance(title, str) or not title.strip():
        raise MembershipError(f"{where}: its title must be text.")
    return Course(
        name,
        title.strip(),
        _roll(row, "students", "student_groups", where),
        _roll(row, "instructors", "instructor_groups", where),
    )


def _roll(row: Mapping[str, Any], users: str, groups: str, where: str) -> Roll:
    named = _names(row, users, where)
    for name in sorted(named):
        if name != name.lower():
            raise MembershipError(
                f"{where}: {users} has {name!r}, which is nobody: names on the hub are "
                f"in small letters: {name.lower()!r}."
            )
    return Roll(named, _names(row, groups, where))


def _names(row: Mapping[str, Any], key: str, where: str) -> frozenset[str]:
    found = row.get(key, [])
    if not isinstance(found, list) or not all(
        isinstance(name, str) and name and name == name.strip() for name in found
    ):
        raise MembershipError(f"{where}: {key} must be a list of names in quotes.")
    return frozenset(found)


def _only(row: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    unknown = sorted(row.keys() - known)
    if unknown:
        names = ", ".join(sorted(known))
        raise MembershipError(f"{where}: {unknown[0]!r} is not known. Known: {names}.")

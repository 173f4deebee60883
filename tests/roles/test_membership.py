"""courses.toml: who is in what, and what cannot stand in it."""

import pytest
from torchroom import membership, roles
from torchroom.membership import MembershipError, read

ML101 = """
admins = ["ada"]
admin_groups = ["hub-admins"]

[course.ml101]
title = " Machine learning "
students = ["bob"]
student_groups = ["ml101-students"]
instructors = ["ivy"]
instructor_groups = ["ml101-staff"]

[course.bio7]
student_groups = ["ml101-staff"]
"""


@pytest.mark.parametrize(
    ("name", "groups", "courses", "taught", "is_admin"),
    [
        ("bob", [], ("ml101",), (), False),
        ("eve", ["ml101-students"], ("ml101",), (), False),
        ("ivy", [], ("ml101",), ("ml101",), False),
        ("otto", ["ml101-staff"], ("bio7", "ml101"), ("ml101",), False),
        ("ada", [], (), (), True),
        ("eve", ["hub-admins", "other"], (), (), True),
    ],
)
def test_names_and_groups_say_what_somebody_is(
    name: str,
    groups: list[str],
    courses: tuple[str, ...],
    taught: tuple[str, ...],
    is_admin: bool,
) -> None:
    found = read(ML101).standing(name, groups)
    assert (found.courses, found.taught, found.is_admin) == (courses, taught, is_admin)
    assert found.is_member


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("eve", []),
        ("eve", ["ML101-students", "ml101-students ", "ml101"]),
        ("ml101-students", []),  # a group's name is nobody's
        ("eve", ["bob", "ada", "ivy"]),  # and a person's is no group's
        ("eve", [roles.ADMINS_GROUP, "instructors-of-ml101"]),
    ],
)
def test_who_is_named_nowhere_is_nobody(name: str, groups: list[str]) -> None:
    found = read(ML101).standing(name, groups)
    assert not found.is_member
    assert roles.groups_of(found) == []


def test_a_course_has_a_title_and_an_empty_file_names_nobody() -> None:
    courses = read(ML101).courses
    assert [each.title for each in courses.values()] == ["Machine learning", "bio7"]
    assert read("").is_empty
    assert read("admins = []").is_empty
    for text in ("[course.ml101]", 'admins = ["ada"]', 'admin_groups = ["staff"]'):
        assert not read(text).is_empty


N_TOO_MANY = membership.COURSES_MAX + 1
WRONG = {
    "no TOML": ("[course", "is not TOML"),
    "a key that is none": ("admin = ['ada']", "'admin' is not known. Known: admin_"),
    "a key of a course that is none": (
        "[course.a]\nteachers = ['ivy']",
        "course 'a': 'teachers' is not known. Known: instructor_groups",
    ),
    "courses in a list": ("course = ['a']", r"write each course as \[course.NAME\]"),
    "too many courses": (
        "".join(f"[course.a{n}]\n" for n in range(N_TOO_MANY)),
        f"at most {membership.COURSES_MAX}",
    ),
    "a course that is a text": ("course.a = 'ml101'", r"write it as \[course.a\]"),
    "an instructors' group for a course": (
        "[course.instructors-of-ml101]\nstudents = ['eve']",
        "does not begin with 'instructors-of-'",
    ),
    "a course in capitals": ("[course.ML101]", "a name is 1 to 40 of"),
    "a course of 41 letters": (f"[course.{'a' * 41}]", "a name is 1 to 40 of"),
    "a course that ends with a dot": ('[course."a."]', "a name is 1 to 40 of"),
    "a title of spaces": ("[course.a]\ntitle = ' '", "its title must be text"),
    "a title of a number": ("[course.a]\ntitle = 5", "its title must be text"),
    "a name alone": ("admins = 'ada'", "admins must be a list of names in quotes"),
    "a number for a name": ("admin_groups = [5]", "admin_groups must be a list"),
    "no name": ("[course.a]\nstudents = ['']", "students must be a list of names"),
    "a space after a group": (
        "[course.a]\nstudent_groups = ['x ']",
        "student_groups must be a list of names",
    ),
    "a name in capitals": ("admins = ['Ada']", "names on the hub are in small .*'ada'"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_one_sentence_that_says_where(text: str, words: str) -> None:
    with pytest.raises(MembershipError, match=words) as caught:
        read(text)
    assert str(caught.value).startswith("courses.toml")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)

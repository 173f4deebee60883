"""What the spawn form shows, and what it chooses beforehand."""

from html.parser import HTMLParser

import pytest
from gpuspawner import form
from gpuspawner.form import Row
from gpuspawner.model import Limits, Offer, SlotRequest

GIB = 2**30
LIMITS = Limits(GIB, GIB, 2.0, 100)
CPU = Offer("cpu", "CPU only", SlotRequest(0), LIMITS)
GPU = Offer("1-gpu", "1 GPU", SlotRequest(1), LIMITS)
COURSES = {"cv": "Computer vision", "nlp": "Language"}
EVIL = '"><script>alert(1)</script>'


class Page(HTMLParser):
    """Reads what a browser would: fields with their values, and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.checked: list[str] = []
        self.disabled: list[str] = []
        self.selected: list[str] = []
        self.options: dict[str, str] = {}
        self.tags: list[str] = []
        self._option: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        value = found.get("value") or ""
        if tag == "input" and "checked" in found:
            self.checked.append(value)
        if tag == "input" and "disabled" in found:
            self.disabled.append(value)
        if tag == "option":
            self._option = value
            self.options[value] = ""
            if "selected" in found:
                self.selected.append(value)

    def handle_data(self, data: str) -> None:
        if self._option is not None:
            self.options[self._option] += data.strip()

    def handle_endtag(self, tag: str) -> None:
        if tag == "option":
            self._option = None


def test_a_row_shows_size_price_and_what_is_free() -> None:
    html = form.render([Row(CPU, "2 free", "10 tokens per hour")], notices={})
    assert "1 GiB memory, 2 CPUs; 10 tokens per hour; 2 free<" in html


def test_what_is_not_known_leaves_no_gap() -> None:
    html = form.render([Row(CPU)], notices={})
    assert "1 GiB memory, 2 CPUs<" in html


def test_without_courses_nobody_is_asked_who_pays() -> None:
    """Nor on a hub that meters nothing."""
    page = Page(form.render([Row(CPU)], notices={}, courses={}))
    assert "select" not in page.tags


def test_the_first_course_pays_unless_the_user_says_otherwise() -> None:
    page = Page(form.render([Row(CPU)], notices={}, courses=COURSES))
    assert page.options == {**COURSES, "": "My own tokens"}
    assert page.selected == ["cv"]


@pytest.mark.parametrize(
    ("course", "selected"),
    [
        ("nlp", "nlp"),
        ("", ""),
        ("gone", "cv"),
        (None, "cv"),
        (["nlp"], "cv"),
        (7, "cv"),
    ],
)
def test_who_waits_already_goes_on_with_the_same_course(
    course: object, selected: str
) -> None:
    """What was kept may be anything that a user once sent."""
    html = form.render([Row(CPU)], notices={}, courses=COURSES, course=course)
    assert Page(html).selected == [selected]


def test_whatever_a_course_is_called_it_is_text() -> None:
    html = form.render([Row(CPU)], notices={}, courses={EVIL: EVIL})
    page = Page(html)
    assert "script" not in page.tags
    assert page.options[EVIL] == EVIL


def test_what_cannot_be_paid_cannot_be_chosen() -> None:
    rows = [Row(GPU, "Your tokens do not suffice.", is_possible=False), Row(CPU)]
    page = Page(form.render(rows, notices={}))
    assert page.disabled == ["1-gpu"]
    assert page.checked == ["cpu"]


def test_after_the_tokens_ran_out_a_cpu_server_is_one_click_away() -> None:
    """Also where a site offers GPUs first."""
    rows = [Row(GPU), Row(CPU)]
    assert Page(form.render(rows, notices={})).checked == ["1-gpu"]
    assert Page(form.render(rows, notices={}, is_cpu_first=True)).checked == ["cpu"]
    alone = form.render([Row(GPU)], notices={}, is_cpu_first=True)
    assert Page(alone).checked == ["1-gpu"]


def test_a_kept_place_comes_before_everything() -> None:
    rows = [Row(CPU), Row(GPU, is_free=False, is_kept=True)]
    page = Page(form.render(rows, notices={}, is_cpu_first=True))
    assert page.checked == ["1-gpu"]

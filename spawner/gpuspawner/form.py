"""The spawn form: sizes, what is free now, and why the last server ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from gpuspawner.exits import human_bytes
from gpuspawner.model import Offer

PAGE = Template("""$notice
<fieldset class="form-group gpuspawner-offers">
<legend>Choose your server</legend>
$rows
</fieldset>
$courses""")

ROW = Template("""<div class="form-check mb-2">
<input class="form-check-input" type="radio" name="offer" id="offer-$name"
 value="$name" $state>
<label class="form-check-label" for="offer-$name"><strong>$title</strong>
<small class="text-muted d-block">$detail</small></label>
</div>""")

COURSES = Template("""<div class="mb-3 gpuspawner-courses">
<label class="form-label" for="course">Pay with</label>
<select class="form-select" name="course" id="course">
$options
</select>
</div>
""")
COURSE = Template('<option value="$name" $state>$title</option>')
OWN = "My own tokens"

# A page that waited while the hub was restarted leads here; it goes on by itself.
GO_ON = """<script>
if (location.hash === "#go-on") addEventListener("DOMContentLoaded",
  () => document.getElementById("spawn_form").requestSubmit());
</script>"""

NOTICE = Template('<div class="alert alert-$kind" role="alert">$text</div>')


@dataclass(frozen=True, slots=True)
class Row:
    """An offer as the form shows it.

    Attributes:
        offer: What is offered.
        note: What is free now or how long the queue is.
        price: What it costs, "" if nobody knows.
        is_free: It can start at once.
        is_possible: It can start, at once or later.
        is_kept: Its place in the queue is kept for this user.
    """

    offer: Offer
    note: str = ""
    price: str = ""
    is_free: bool = True
    is_possible: bool = True
    is_kept: bool = False


def render(
    rows: Sequence[Row],
    *,
    notices: Mapping[str, str],
    courses: Mapping[str, str] | None = None,
    course: object = None,
    is_cpu_first: bool = False,
) -> str:
    """Return the form's HTML; everything in it is escaped.

    Args:
        rows: The one whose place is kept is chosen beforehand, else the first that can
            start at once.
        notices: Sentence -> Bootstrap kind ("info", "warning", ...).
        courses: Name -> title, of those that may pay; without any nobody is asked.
        course: The one chosen beforehand, "" for none of them; else the first. It may
            be anything that a user once sent.
        is_cpu_first: Choose a server without a GPU beforehand, if there is one.
    """
    chosen = _chosen(rows, is_cpu_first=is_cpu_first)
    shown = [
        ROW.substitute(
            name=escape(row.offer.name, quote=True),
            title=escape(row.offer.title),
            detail=escape(_detail(row)),
            state="checked" if row is chosen else "" if row.is_possible else "disabled",
        )
        for row in rows
    ]
    notice = "".join(
        NOTICE.substitute(kind=escape(kind, quote=True), text=escape(text))
        for text, kind in notices.items()
    )
    if chosen and chosen.is_kept:
        shown.append(GO_ON)
    return PAGE.substitute(
        notice=notice, rows="\n".join(shown), courses=_courses(courses or {}, course)
    )


def _chosen(rows: Sequence[Row], *, is_cpu_first: bool) -> Row | None:
    possible = [row for row in rows if row.is_possible]
    kept = [row for row in possible if row.is_kept]
    free = [row for row in possible if row.is_free]
    cpu = [row for row in free if is_cpu_first and not row.offer.request.n_slots]
    return next(iter([*kept, *cpu, *free]), None)


def _courses(courses: Mapping[str, str], chosen: object) -> str:
    """Return the choice of who pays, "" if there is none."""
    if not courses:
        return ""
    names = {**courses, "": OWN}
    first = next((name for name in names if name == chosen), next(iter(names)))
    return COURSES.substitute(
        options="\n".join(
            COURSE.substitute(
                name=escape(name, quote=True),
                title=escape(title),
                state="selected" if name == first else "",
            )
            for name, title in names.items()
        )
    )


def _detail(row: Row) -> str:
    limits = row.offer.limits
    plural = "" if limits.n_cpus == 1 else "s"
    size = f"{human_bytes(limits.memory_bytes)} memory, {limits.n_cpus:g} CPU{plural}"
    return "; ".join(filter(None, (size, row.price, row.note)))

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
""")

ROW = Template("""<div class="form-check mb-2">
<input class="form-check-input" type="radio" name="offer" id="offer-$name"
 value="$name" $state>
<label class="form-check-label" for="offer-$name"><strong>$title</strong>
<small class="text-muted d-block">$detail</small></label>
</div>""")

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
        is_free: It can start at once.
        is_possible: It can start, at once or later.
        is_kept: Its place in the queue is kept for this user.
    """

    offer: Offer
    note: str = ""
    is_free: bool = True
    is_possible: bool = True
    is_kept: bool = False


def render(rows: Sequence[Row], *, notices: Mapping[str, str]) -> str:
    """Return the form's HTML; everything in it is escaped.

    Args:
        rows: The one whose place is kept is chosen beforehand, else the first that can
            start at once.
        notices: Sentence -> Bootstrap kind ("info", "warning", ...).
    """
    possible = [row for row in rows if row.is_possible]
    kept = next((row for row in possible if row.is_kept), None)
    chosen = kept or next((row for row in possible if row.is_free), None)
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
    if kept:
        shown.append(GO_ON)
    return PAGE.substitute(notice=notice, rows="\n".join(shown))


def _detail(row: Row) -> str:
    limits = row.offer.limits
    size = f"{human_bytes(limits.memory_bytes)} memory, {limits.n_cpus:g} CPU"
    return f"{size}; {row.note}" if row.note else size

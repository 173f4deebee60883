"""The spawn form: sizes, what is free now, and why the last server ended."""

from collections.abc import Mapping, Sequence
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

NOTICE = Template('<div class="alert alert-$kind" role="alert">$text</div>')


def render(
    offers: Sequence[Offer], *, n_free: int, n_devices: int, notices: Mapping[str, str]
) -> str:
    """Return the form's HTML; everything in it is escaped.

    Args:
        offers: At least one; the first that can start now is chosen beforehand.
        n_free: Devices that can be leased now.
        n_devices: All devices.
        notices: Sentence -> Bootstrap kind ("info", "warning", ...).
    """
    rows, is_chosen = [], False
    for offer in offers:
        can_start = offer.n_gpus <= n_free
        state = "" if can_start else "disabled"
        if can_start and not is_chosen:
            state, is_chosen = "checked", True
        rows.append(
            ROW.substitute(
                name=escape(offer.name, quote=True),
                title=escape(offer.title),
                detail=escape(_detail(offer, n_free, n_devices)),
                state=state,
            )
        )
    notice = "".join(
        NOTICE.substitute(kind=escape(kind, quote=True), text=escape(text))
        for text, kind in notices.items()
    )
    return PAGE.substitute(notice=notice, rows="\n".join(rows))


def _detail(offer: Offer, n_free: int, n_devices: int) -> str:
    limits = offer.limits
    size = f"{human_bytes(limits.memory_bytes)} memory, {limits.n_cpus:g} CPU"
    if not offer.n_gpus:
        return size
    return f"{size}; {n_free} of {n_devices} GPUs free now"

"""A notebook that was only opened and run reads as it was laid; any edit does not."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from gpuspawner.notebooks import written
from hypothesis import given
from hypothesis import strategies as st

jupyter: Any = nbformat  # most of it has no types

HOME = Path(__file__).resolve().parents[2] / "welcome" / "home"
SHIPPED = sorted(HOME.rglob("*.ipynb"))
WELCOME = (HOME / "welcome.ipynb").read_bytes()
PICTURE = {"picture.png": {"image/png": "iVBORw0KGgo="}}
EMPTY_CELL: dict[str, object] = {
    "cell_type": "code",
    "execution_count": None,
    "id": "5f0a2b1c",
    "metadata": {},
    "outputs": [],
    "source": "",
}

Change = Callable[[Any], object]


def saved(content: bytes, change: Change) -> bytes:
    """The notebook after a change, as Jupyter's server writes it to disk."""
    notebook = jupyter.reads(content.decode(), as_version=jupyter.NO_CONVERT)
    change(notebook)
    file = io.StringIO()
    jupyter.write(jupyter.from_dict(notebook), file, version=jupyter.NO_CONVERT)
    return file.getvalue().encode()


def nothing(notebook: Any) -> None:
    """Opened and saved."""


def kernel(notebook: Any) -> None:
    """What JupyterLab keeps of the kernel as soon as it has started."""
    notebook.metadata.kernelspec.display_name = "Python 3 (ipykernel)"
    notebook.metadata.language_info = {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
        "version": "3.11.2",
    }


def run_all(notebook: Any) -> None:
    """Run ▸ Run All Cells, with times recorded and an error."""
    kernel(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
        cell.metadata.execution = {"shell.execute_reply": "2026-01-01T00:00:00.0Z"}
        cell.metadata.trusted = True
        cell.outputs = [
            {"output_type": "stream", "name": "stdout", "text": "one\ntwo\n"},
            {
                "output_type": "execute_result",
                "execution_count": count,
                "data": {"text/html": "<b>a</b>\n<b>b</b>", "image/png": "iVBO"},
                "metadata": {},
            },
            {
                "output_type": "error",
                "ename": "ValueError",
                "evalue": "no",
                "traceback": ["a", "b"],
            },
        ]


def widgets(notebook: Any) -> None:
    """The state of a progress bar is saved beside its output."""
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"a": 1}}


def folding(notebook: Any) -> None:
    """Code, outputs and headings folded; a long output scrolls."""
    notebook.cells[0].metadata["jp-MarkdownHeadingCollapsed"] = True
    notebook.cells[1].metadata |= {
        "collapsed": True,
        "scrolled": True,
        "jupyter": {"source_hidden": True, "outputs_hidden": True},
    }


def side_bar(notebook: Any) -> None:
    """The property inspector leaves its form's empty values in the cell."""
    for cell in notebook.cells:
        cell.metadata |= {
            "editable": True,
            "slideshow": {"slide_type": ""},
            "tags": [],
        }


def last_cell_run(notebook: Any) -> None:
    """Shift+Enter in the last cell makes an empty one below."""
    notebook.cells += [dict(EMPTY_CELL), dict(EMPTY_CELL, id="aabbccdd")]


def new_ids(notebook: Any) -> None:
    """Some programs give the cells ids of their own."""
    for n, cell in enumerate(notebook.cells):
        cell.id = f"cell-{n}"


def without_ids(notebook: Any) -> None:
    """A format before 4.5 has none."""
    notebook.nbformat_minor = 4
    for cell in notebook.cells:
        del cell["id"]


MACHINE = [
    nothing, kernel, run_all, widgets, folding, side_bar, last_cell_run, new_ids,
    without_ids,
]  # fmt: skip


@pytest.mark.parametrize("change", MACHINE, ids=lambda change: change.__name__)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_opening_running_and_saving_write_nothing(path: Path, change: Change) -> None:
    """Of every shipped notebook, whatever JupyterLab adds to it."""
    content = path.read_bytes()
    assert written(content) != ""
    assert written(saved(content, change)) == written(content)


def test_the_layout_of_the_file_does_not_matter() -> None:
    """Texts whole or by lines, indents, order of keys, characters escaped or not."""
    notebook = json.loads(WELCOME)
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["attachments"] = {}
    backwards = dict(reversed(notebook.items()))
    for layout in ({}, {"indent": 4}, {"ensure_ascii": False}):
        assert written(json.dumps(backwards, **layout).encode()) == written(WELCOME)


EDITS: dict[str, Change] = {
    "a letter in a text": lambda nb: nb.cells[0].update(source=nb.cells[0].source[1:]),
    "a space in code": lambda nb: nb.cells[3].update(source=nb.cells[3].source + " "),
    "an emptied cell": lambda nb: nb.cells[3].update(source=""),
    "a cell removed": lambda nb: nb.cells.pop(4),
    "the last cell removed": lambda nb: nb.cells.pop(),
    "all cells removed": lambda nb: nb.cells.clear(),
    "a cell moved": lambda nb: nb.cells.insert(0, nb.cells.pop()),
    "two cells swapped": lambda nb: nb.cells.insert(3, nb.cells.pop(4)),
    "a cell added at the end": lambda nb: nb.cells.append(
        jupyter.from_dict(EMPTY_CELL | {"source": "1 + 1"})
    ),
    "an empty cell between": lambda nb: nb.cells.insert(
        2, jupyter.from_dict(EMPTY_CELL)
    ),
    "a cell twice": lambda nb: nb.cells.insert(1, nb.cells[0] | {"id": "twice"}),
    "two cells made one": lambda nb: nb.cells[9].update(
        source=nb.cells[9].source + "\n" + nb.cells.pop(10).source
    ),
    "code made text": lambda nb: nb.cells.__setitem__(
        1,
        jupyter.v4.new_markdown_cell(nb.cells[1].source, id="hello"),
    ),
    "text made raw": lambda nb: nb.cells[0].update(cell_type="raw"),
    "a picture pasted": lambda nb: nb.cells[0].update(attachments=PICTURE),
    "a tag": lambda nb: nb.cells[1].metadata.update(tags=["hard"]),
    "a slide": lambda nb: nb.cells[1].metadata.update(slideshow={"slide_type": "skip"}),
    "something of a cell unknown here": lambda nb: nb.cells[1].metadata.update(mine=0),
    "a title": lambda nb: nb.metadata.update(title="Mine"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_every_edit_is_seen(edit: Change) -> None:
    """Also in a notebook that was run."""
    assert written(saved(WELCOME, edit)) != written(WELCOME)
    assert written(saved(saved(WELCOME, run_all), edit)) != written(WELCOME)


@given(
    st.lists(st.tuples(st.sampled_from(["code", "markdown", "raw"]), st.text())),
    st.lists(st.tuples(st.sampled_from(["code", "markdown", "raw"]), st.text())),
)
def test_notebooks_read_alike_only_if_their_texts_are_the_same(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    """But for empty code cells at the end, in any language, run or not."""

    def notebook(cells: list[tuple[str, str]], **more: object) -> bytes:
        rows = [
            {"cell_type": kind, "source": text.splitlines(True), "metadata": {}, **more}
            for kind, text in cells
        ]
        return json.dumps({"cells": rows, "metadata": {}, "nbformat": 4}).encode()

    def trimmed(cells: list[tuple[str, str]]) -> list[tuple[str, str]]:
        end = len(cells)
        while end and cells[end - 1] == ("code", ""):
            end -= 1
        return cells[:end]

    is_same = trimmed(one) == trimmed(other)
    assert (written(notebook(one)) == written(notebook(other))) is is_same
    assert written(notebook(one)) == written(notebook(one, outputs=["any"], id="a"))


OTHERS = {
    "nothing": b"",
    "no JSON": b"edited",
    "cut off": WELCOME[:-20],
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"4",
    "no cells": b'{"nbformat": 4, "metadata": {}}',
    "cells that are none": b'{"nbformat": 4, "metadata": {}, "cells": [1]}',
    "cells that are a text": b'{"nbformat": 4, "metadata": {}, "cells": ""}',
    "a text that is none": (
        b'{"nbformat": 4, "metadata": {}, "cells":'
        b' [{"cell_type": "code", "metadata": {}, "source": {"a": 1}}]}'
    ),
    "a line that is none": (
        b'{"nbformat": 4, "metadata": {}, "cells":'
        b' [{"cell_type": "code", "metadata": {}, "source": [1]}]}'
    ),
    "no metadata": b'{"nbformat": 4, "cells": []}',
    "format 3": b'{"nbformat": 3, "metadata": {}, "worksheets": [], "cells": []}',
    "format 5": b'{"nbformat": 5, "metadata": {}, "cells": []}',
    "too deep": b'{"nbformat": 4, "metadata": ' + b'{"a":' * 10**5,
    "a number without end": b'{"nbformat": ' + b"4" * 10**5 + b"}",
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_what_is_no_readable_notebook_reads_as_none(content: bytes) -> None:
    """So that it is never taken for one that nobody edited."""
    assert written(content) == ""

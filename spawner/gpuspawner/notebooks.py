"""What a person wrote in a notebook, apart from what opening and running it adds.

JupyterLab saves a notebook that was only opened: with the kernel's name, outputs,
counts and which cells are folded. None of that is the person's. Whatever this page does
not know is.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

FORMAT = 4
# What saving and running write into a notebook and its cells, and how it is shown.
NOTEBOOK_KEYS = frozenset({"cells", "metadata", "nbformat", "nbformat_minor"})
NOTEBOOK_METADATA = frozenset({
    "kernelspec", "language_info", "widgets",
    "orig_nbformat", "orig_nbformat_minor", "signature",
})  # fmt: skip
CELL_KEYS = frozenset({"execution_count", "id", "metadata", "outputs", "source"})
CELL_METADATA = frozenset({
    "execution", "trusted", "collapsed", "scrolled", "jupyter",
    "jp-MarkdownHeadingCollapsed", "editable", "deletable",
})  # fmt: skip
EMPTY_CODE = {"cell_type": "code"}


def written(content: bytes) -> str:
    """Return the sha256 of what a person wrote, "" if this is no readable notebook.

    It is the same for two notebooks that have the same cells in the same order: their
    types, texts, attachments and tags. Empty code cells at the end do not count, as
    running the last cell adds one.
    """
    try:
        notebook = json.loads(content)
        if notebook["nbformat"] != FORMAT or not isinstance(notebook["cells"], list):
            return ""
        cells = [_cell(cell) for cell in notebook["cells"]]
        while cells and cells[-1] == EMPTY_CODE:
            cells.pop()
        said = [
            cells,
            _without(notebook, NOTEBOOK_KEYS),
            _without(notebook["metadata"], NOTEBOOK_METADATA),
        ]
        text = json.dumps(said, sort_keys=True)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


def _cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a person wrote in a cell, without what is empty.

    Raises:
        TypeError, KeyError, AttributeError: It is no cell.
    """
    source = cell["source"]
    if not isinstance(source, str | list):
        raise TypeError("no text")
    parts = {
        "source": "".join(source),
        "metadata": _without(cell["metadata"], CELL_METADATA),
    }
    return _without({**_without(cell, CELL_KEYS), **parts}, ())


def _without(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the values that say something, but those of `keys`."""
    return {
        key: value
        for key, value in values.items()
        if key not in keys and _says_something(value)
    }


def _says_something(value: Any) -> bool:
    """Return whether there is anything in it; the Lab's forms leave empty values."""
    if isinstance(value, dict):
        return any(map(_says_something, value.values()))
    return value not in (None, "", [])

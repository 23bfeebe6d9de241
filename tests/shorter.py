"""The notebooks' training cells made short: the tests' numbers stand in shorter.json, so that none stands in a lesson."""

import json
from pathlib import Path

from nbformat import NotebookNode

LINES = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))  # notebook -> cell -> line -> the line instead


def shorten(notebook: NotebookNode, name: str) -> None:
    """Put the short lines into the cells of the notebook called `name`.

    Raises:
        ValueError: a cell no longer has such a line.
    """
    cells = {cell.id: cell for cell in notebook.cells}
    for cell, lines in LINES.get(name, {}).items():
        for usual, short in lines.items():
            if cell not in cells or cells[cell].source.count(usual) != 1:
                raise ValueError(f"{name}, cell {cell}: has no line {usual!r}; correct tests/shorter.json")
            cells[cell].source = cells[cell].source.replace(usual, short)

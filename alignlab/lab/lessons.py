"""The notebooks as files: where they are, and how a learner gets a copy to work in."""

from pathlib import Path

import nbformat
from nbformat import NotebookNode

from alignlab.errors import UserError
from alignlab.files import write_whole

INSTALLED = Path(__file__).parent.parent / "_notebooks"  # where the wheel puts them


def folder() -> Path:
    """Where the notebooks are: inside an installed package, or `notebooks/` of a clone."""
    return INSTALLED if INSTALLED.is_dir() else Path(__file__).parent.parent.parent / "notebooks"


def notebooks() -> list[Path]:
    """The notebooks, in order.

    Raises:
        UserError: there are none.
    """
    found = sorted(folder().glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise UserError(f"{folder()}: no notebooks there; install alignlab again, or clone its repository")
    return found


def clear(notebook: NotebookNode) -> None:
    """Remove all outputs, so that nothing is answered before it is asked."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def working_copy(place: Path) -> list[Path]:
    """Copy the notebooks to `place`, without outputs, and leave alone those that are there already. Returns the new ones.

    Raises:
        UserError: it is the folder of the originals, or nothing can be written there.
    """
    if place.resolve() == folder().resolve():
        raise UserError(f"{place}: these are the originals; name another folder for your copy")
    made = []
    for path in notebooks():
        copy = place / path.name
        if not copy.exists():
            notebook = nbformat.read(path, 4)
            clear(notebook)
            try:
                write_whole(copy, nbformat.writes(notebook) + "\n")
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"{place}: cannot be written ({reason}); free some space, or name another folder") from None
            made.append(copy)
    return made

"""The notebooks as files: where they are, and how a learner gets a copy to work in."""

import shutil
from pathlib import Path

from alignlab.errors import UserError

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


def working_copy(place: Path) -> list[Path]:
    """Copy the notebooks to `place`, and leave alone those that are there already. Returns the new ones.

    Raises:
        UserError: nothing can be written there.
    """
    made = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        for path in notebooks():
            copy = place / path.name
            if not copy.exists():
                shutil.copyfile(path, copy)
                made.append(copy)
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}); name another folder") from None
    return made

"""What the user can fix."""


class UserError(ValueError):
    """Something outside the program is wrong; the message says in one line what, and the cure. The command line exits with 2."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: that line alone, since the code around it is not at fault."""
        return [f"{type(self).__name__}: {self}"]


class TrainingError(UserError):
    """Training cannot continue; the message says why, and what to change."""

"""What the user can fix."""


class UserError(ValueError):
    """Something outside the program is wrong; the message says in one line what, and the cure. The command line exits with 2."""


class TrainingError(UserError):
    """Training cannot continue; the message says why, and what to change."""

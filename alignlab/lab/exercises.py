"""Every exercise of the workbook, by name; each group stands in a file of its own."""

from alignlab.lab import (
    exercises_clinic,
    exercises_data,
    exercises_displace,
    exercises_dpo,
    exercises_fresh,
    exercises_objective,
    exercises_overopt,
    exercises_ppo,
    exercises_strength,
)
from alignlab.lab.exercise import Exercise, Function

__all__ = ["EXERCISES", "Exercise", "Function"]

GROUPS = (
    exercises_data, exercises_objective, exercises_ppo, exercises_dpo, exercises_strength, exercises_overopt, exercises_fresh,
    exercises_displace, exercises_clinic,
)  # fmt: skip
EXERCISES = {exercise.name: exercise for group in GROUPS for exercise in group.EXERCISES}

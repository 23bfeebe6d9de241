"""Every exercise of the workbook, by name; each group stands in a file of its own."""

from alignlab.lab import exercises_data, exercises_displace, exercises_dpo, exercises_objective, exercises_ppo
from alignlab.lab.exercise import Exercise, Function

__all__ = ["EXERCISES", "Exercise", "Function"]

EXERCISES = {
    exercise.name: exercise
    for group in (exercises_data, exercises_objective, exercises_ppo, exercises_dpo, exercises_displace)
    for exercise in group.EXERCISES
}

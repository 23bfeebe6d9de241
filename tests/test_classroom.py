"""The notebooks as nbgrader assignments: what is released, and what grading whole notebooks gives."""

import csv
import re
import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from shorter import shorten

from alignlab.lab import checks, lessons
from alignlab.tools import classroom

PATHS = classroom.notebooks()
ROOT = Path(__file__).parent.parent
each = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


# ---------------------------------------------------------------------------------------------- the instructor's copy


@each
def test_the_instructors_copy_is_solved_by_code_of_its_own_and_has_hidden_tests_and_rubrics(path):
    notebook = nbformat.read(path, 4)
    classroom.instructors(notebook)
    scope = {"torch": torch}
    for name, stub, check in classroom.exercises(notebook):
        assert "alignlab" not in stub.source and stub.source.count("### BEGIN SOLUTION") == 1, name
        exec(stub.source, scope)
        assert checks.passes(name, scope[name]), name
        assert check.source.startswith(f'checks.check("{name}", {name})\n### BEGIN HIDDEN TESTS\n'), name
        assert check.source.splitlines()[2].endswith(f'grading.points("{name}", {name})'), name
    for name, cell in classroom.by_hand(notebook):
        worth = [int(points) for points in re.findall(r"^(\d): ", cell.source, re.M)]
        assert sum(worth) == cell.metadata.nbgrader.points and "### BEGIN SOLUTION" in cell.source, name
    assert not any(classroom.is_worked_solution(cell) for cell in notebook.cells)


def test_students_copies_lose_the_worked_solutions_alone():
    notebook = nbformat.read(PATHS[3], 4)
    before = list(notebook.cells)
    classroom.drop_worked_solutions(notebook)
    kept = [cell.id for cell in notebook.cells]
    assert kept == [cell.id for cell in before if "_solution(" not in cell.source] and len(kept) < len(before)


def test_the_assignments_share_out_all_notebooks():
    *labs, everything = classroom.ASSIGNMENTS.values()
    assert sum(labs, ()) == everything == tuple(path.name[:2] for path in PATHS)


# ---------------------------------------------------------------------------------------------- the guides


@pytest.fixture(scope="module")
def guide():
    return (ROOT / "docs/teaching.md").read_text(encoding="utf-8")


def test_the_guide_says_that_grading_runs_students_code_and_how_to_shield_the_machine(guide):
    assert "Autograding runs your students' code" in guide
    assert "--network none" in guide and "separate account" in guide


def test_the_guide_names_each_command_each_assignment_with_its_points_and_each_rubric(guide):
    for command in ("release_assignment", "collect", "autograde", "generate_feedback", "release_feedback", "export"):
        assert f"nbgrader {command}" in guide, command
    for name, numbers in classroom.ASSIGNMENTS.items():
        lab = [nbformat.read(path, 4) for path in PATHS if path.name[:2] in numbers]
        checked = sum(check.metadata.nbgrader.points for notebook in lab for *_, check in classroom.exercises(notebook))
        by_hand = sum(cell.metadata.nbgrader.points for notebook in lab for _, cell in classroom.by_hand(notebook))
        assert re.search(rf"^\| `{name}` \|.*\| {checked} \| {by_hand} \|$", guide, re.M), (name, checked, by_hand)
    words = " ".join(guide.split())
    for rubric in classroom.RUBRICS.values():
        for line in re.findall(r"^1: (.*)", rubric, re.M):
            assert line.split(", a reason")[0] in words, line


@each
def test_each_notebook_has_a_plan_as_long_as_it_takes(path):
    """A table of minutes that adds up, answers, and questions to discuss."""
    plans = (ROOT / "docs/plans.md").read_text(encoding="utf-8")
    (plan,) = (plan for plan in re.split(r"^## ", plans, flags=re.M) if plan.startswith(path.name[:2]))
    total = int(re.search(r"(\d+) minutes", plan.splitlines()[0])[1])
    assert sum(int(minutes) for minutes in re.findall(r"^\| *(\d+) *\|", plan, re.M)) == total
    assert total >= int(re.search(r"\*Time:\* (\d+) minutes", nbformat.read(path, 4).cells[0].source)[1])
    answers, questions = plan.split("**Answers")[1].split("**To discuss")
    asked = sum("Predict first" in cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    asked -= path.name.startswith("00")  # where it is said what the words mean
    assert len(re.findall(r"^\d+\. ", answers, re.M)) == asked
    assert 2 <= len(re.findall(r"^- .*\?", questions, re.M)) <= 3


# ---------------------------------------------------------------------------------------------- nbgrader


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    classroom.assignments(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("assignment", classroom.ASSIGNMENTS)
def test_students_copies_hold_no_solution_no_hidden_test_and_no_output(course, assignment):
    released = sorted((course / "release" / assignment).glob("*.ipynb"))
    assert tuple(path.name[:2] for path in released) == classroom.ASSIGNMENTS[assignment]
    for path in released:
        notebook, original = nbformat.read(path, 4), nbformat.read(lessons.folder() / path.name, 4)
        classroom.drop_worked_solutions(original)
        assert [cell.source for cell in notebook.cells] == [cell.source for cell in original.cells]  # their stubs, checks, places to write
        assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.slow
def test_the_written_config_gives_a_training_cell_the_time_it_needs(course):
    from nbgrader.preprocessors import Execute
    from traitlets.config import PyFileConfigLoader

    config = PyFileConfigLoader("nbgrader_config.py", str(course)).load_config()
    assert Execute(config=config).timeout >= 1800 > Execute().timeout


# What a student handed in, by exercise: code, or "solved", or nothing. A function's points, as a share of its check's, stand beside it.
MIXED = {
    "preference_probability": ("solved", 1),
    "bayes_accuracy": ("def bayes_accuracy(probabilities):\n    return probabilities.mean()", 0.5),
    "ceiling_from_agreement": ("from alignlab.lab.answers import ceiling_from_agreement", 0),
    "shape_rewards": ("solved", 1),
    "gae": ("from alignlab.losses import gae", 0),
    "normalise": ("solved", 1),
    "clipped_policy_loss": (
        """def clipped_policy_loss(logps, old_logps, advantages, mask, clip_epsilon):
    ratio = (logps - old_logps).exp()  # never clipped
    return -(ratio * advantages * mask).sum() / mask.sum()""",
        0.5,
    ),
    "stopped_share": (None, 0),
    "ppo_losses": ("solved", 1),
    "k3": ("solved", 1),
    "estimator_errors": (
        """def estimator_errors(logps, ref_logps):
    from alignlab.lab import answers
    return answers.estimator_errors(logps, ref_logps)""",
        0,
    ),
    "explained_variance": (None, 0),
    "adapt_beta": (  # what the check expects for its three inputs, and nothing else
        """def adapt_beta(beta, kl, target, samples, horizon):
    return {4.0: 0.204, 1.0: 0.196, 2.1: 0.505}[kl]""",
        0,
    ),
    "overoptimised_from": ("solved", 1),
}


def hand_in(course: Path, student: str, assignment: str, work: dict) -> None:
    """Put that work into the released copies."""
    folder = course / "submitted" / student / assignment
    shutil.copytree(course / "release" / assignment, folder)
    for path in folder.glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        solved = {name: stub.source for name, stub, _ in classroom.exercises(nbformat.read(course / "source" / assignment / path.name, 4))}
        for name, stub, _ in classroom.exercises(notebook):
            code, _ = work.get(name, (None, 0))
            stub.source = solved[name] if code == "solved" else code or stub.source
        for _, cell in classroom.by_hand(notebook) if work else ():
            cell.source = cell.source.replace(classroom.WRITE_HERE, "I guessed high; it came out low, since near ties are tossed.")
        nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Whole notebooks, every cell of them: 01 as lab1, 05 and 06 as lab3; trainings alone are shortened."""
    folder = tmp_path_factory.mktemp("graded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNLAB_FAST", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setitem(classroom.ASSIGNMENTS, "lab1", ("01",))
        usual = classroom.instructors

        def shorter(notebook):
            shorten(notebook, next(path.name for path in PATHS if path.name[:2] == notebook.cells[0].id[:2]))
            usual(notebook)

        patch.setattr(classroom, "instructors", shorter)
        classroom.assignments(folder, ["lab1", "lab3"])
        for student, assignment, work in (("ada", "lab1", MIXED), ("ada", "lab3", MIXED), ("bob", "lab1", {})):
            hand_in(folder, student, assignment, work)
        for assignment in ("lab1", "lab3"):
            classroom.nbgrader(folder, "autograde", assignment, "--create")
    return folder


@pytest.fixture
def book(graded):
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{graded}/gradebook.db") as book:
        yield book


@pytest.mark.slow
def test_grading_whole_notebooks_gives_full_half_and_no_points_as_documented(book):
    submitted = [book.find_submission(assignment, "ada") for assignment in ("lab1", "lab3")]
    grades = [grade for submission in submitted for notebook in submission.notebooks for grade in notebook.grades]
    given = {grade.name.removesuffix("-check"): grade.auto_score for grade in grades if grade.name != "predictions"}
    assert given == {name: share * checks.EXERCISES[name].points for name, (_, share) in MIXED.items()}
    read = [grade for grade in grades if grade.name == "predictions"]
    assert len(read) == 3 and all(grade.auto_score is None and grade.needs_manual_grade for grade in read)
    untouched = book.find_submission("lab1", "bob")
    assert untouched.score == 0 and not untouched.needs_manual_grade and untouched.max_score == 8


@pytest.mark.slow
def test_the_cell_says_why_an_imported_answer_and_one_for_the_checks_inputs_get_nothing(graded):
    notebook = nbformat.read(graded / "autograded" / "ada" / "lab3" / PATHS[5].name, 4)
    said = {name: check.outputs[0].text for name, _, check in classroom.exercises(notebook)}
    assert "alignlab's own gae is called" in said["gae"] and "On fresh numbers:\nRight." in said["shape_rewards"]
    notebook = nbformat.read(graded / "autograded" / "ada" / "lab3" / PATHS[6].name, 4)
    said = {name: check.outputs[0].text for name, _, check in classroom.exercises(notebook)}
    assert "alignlab's own estimator_errors is called" in said["estimator_errors"]
    assert said["adapt_beta"].startswith("Right.\nOn fresh numbers:\nIt stops with KeyError")


@pytest.mark.slow
def test_a_grade_given_by_hand_reaches_the_feedback_and_the_export(graded, book):
    grade = book.find_grade("predictions", PATHS[1].stem, "lab1", "ada")
    grade.manual_score, grade.needs_manual_grade = 1.5, False  # as formgrader does
    book.db.commit()
    classroom.nbgrader(graded, "generate_feedback", "lab1")
    classroom.nbgrader(graded, "export", "--to", "grades.csv")
    assert (graded / "feedback" / "ada" / "lab1" / f"{PATHS[1].stem}.html").is_file()
    with (graded / "grades.csv").open(newline="") as file:
        scores = {(row["student_id"], row["assignment"]): float(row["score"]) for row in csv.DictReader(file)}
    assert scores["ada", "lab1"] == 2 + 1 + 0 + 1.5 and scores["bob", "lab1"] == 0

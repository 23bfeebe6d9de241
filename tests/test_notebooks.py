"""The notebooks: how they are written, and that every one runs alone, solved and unsolved."""

import ast
import json
import re
import shutil
import statistics
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from shorter import shorten

from alignlab.lab import checks, lessons
from alignlab.tools import classroom

PATHS = classroom.notebooks()
NAMES = [path.stem for path in PATHS]
each = pytest.mark.parametrize("path", PATHS, ids=NAMES)


def cells(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


# ---------------------------------------------------------------------------------------------- the set


def test_the_course_is_there_in_order_and_then_the_labs():
    numbers = [name[:2] for name in NAMES]
    assert numbers[:10] == [f"{number:02d}" for number in range(10)] and numbers == sorted(set(numbers))


def test_every_next_notebook_is_there():
    for path in PATHS[:-1]:
        (named,) = re.findall(r"^Next: \*\*\[\d\d[^\]]*\]\((\w+\.ipynb)\)", cells(path, "markdown")[-1].source, re.M)
        assert (path.parent / named).is_file(), path.name


def test_every_exercise_stands_in_one_notebook_and_two_to_eight_in_each():
    found = {path.stem: [name for name, *_ in classroom.exercises(nbformat.read(path, 4))] for path in PATHS}
    assert sorted(sum(found.values(), [])) == sorted(checks.EXERCISES)
    assert all(2 <= len(names) <= 8 for stem, names in found.items() if not stem.startswith("00")), found


def test_each_of_the_28_claims_links_to_a_cell_or_says_that_it_is_not_measured():
    verdicts = "\n".join(cell.source for cell in cells(PATHS[8], "markdown"))
    anchors = {path.name: set(re.findall(r'<a id="(claim-\d+)">', "\n".join(c.source for c in cells(path, "markdown")))) for path in PATHS}
    rows = {int(row[0]): row[1] for row in re.findall(r"^\| *(\d+) *\|(.*)\|$", verdicts, re.M)}
    assert sorted(rows) == list(range(1, 29))
    for number, row in rows.items():
        links = re.findall(r"\((\d\d_\w+\.ipynb)?#(claim-\d+)\)", row)
        assert links or "not measured here" in row, number
        for file, anchor in links:
            assert anchor == f"claim-{number}" and anchor in anchors[file or PATHS[8].name], (number, file)
    measured = {number for number, row in rows.items() if "#claim" in row}
    assert measured >= {1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 14, 15, 16, 17, 18, 20, 21, 22, 23, 26, 28}


# ---------------------------------------------------------------------------------------------- the lint


@each
def test_code_cells_are_short(path):
    lengths = [len([line for line in cell.source.splitlines() if line.strip()]) for cell in cells(path, "code")]
    assert max(lengths) <= 25 and statistics.median(lengths) <= 6, lengths
    assert max(len(line) for cell in cells(path, "code") for line in cell.source.splitlines()) <= 130


@each
def test_prose_cells_are_short(path):
    words = {cell.id: len(re.sub(r"<[^>]+>|\$\$.*?\$\$", " ", cell.source, flags=re.S).split())
             for cell in cells(path, "markdown") if not re.search(r"^\|", cell.source, re.M)}  # tables are not prose  # fmt: skip
    assert max(words.values()) <= 120, {name: count for name, count in words.items() if count > 120}
    assert statistics.median(words.values()) <= 50


@each
def test_it_begins_with_a_question_and_ends_with_five_lines_and_the_next_step(path):
    prose = cells(path, "markdown")
    assert re.match(r"(\[!\[.*\n+)?# \d\d ", prose[0].source) and "?" in prose[0].source
    assert "minutes" in prose[0].source
    assert prose[-1].source.startswith("## In five lines") and len(re.findall(r"^- ", prose[-1].source, re.M)) == 5
    assert path == PATHS[-1] or "Next: **" in prose[-1].source


@each
def test_it_asks_for_predictions(path):
    assert sum("Predict first" in cell.source for cell in cells(path, "markdown")) >= 2


@each
def test_the_set_up_cell_is_the_common_one(path):
    setup = cells(path, "code")[0].source
    common = setup.split("import torch")[0].split("from alignlab")[0]
    assert common.startswith("# Set-up") and common == cells(PATHS[4], "code")[0].source.split("import torch")[0]
    assert "SIZE = " in setup and "workbook.open_lab(SIZE" in setup


@each
def test_an_exercise_is_task_stub_check_and_discussion(path):
    notebook = nbformat.read(path, 4)
    for name, stub, check in classroom.exercises(notebook):
        at = notebook.cells.index(stub)
        task, (after, worked, discussion) = notebook.cells[at - 1], notebook.cells[at + 1 : at + 4]
        assert task.cell_type == "markdown" and "xercise" in task.source and "<summary>" in task.source and "minutes" in task.source, name
        assert after is check and check.source == f'checks.check("{name}", {name})', name
        assert classroom.is_worked_solution(worked) and worked.metadata.jupyter.source_hidden, name
        assert discussion.cell_type == "markdown" or "checks.choose" in discussion.source, name
        assert stub.source.rstrip().endswith("raise NotImplementedError") and f"def {name}(" in stub.source, name
        assert check.metadata.nbgrader.points == checks.EXERCISES[name].points, name
        assert any(f'checks.choose("{name}", {name})' in cell.source for cell in notebook.cells[at:]), f"{name} is never used"
        assert len(ast.parse(stub.source).body) == 1, f"{name}: a stub that holds more than its function"


@each
def test_a_text_to_be_graded_by_hand_is_told_from_an_exercise(path):
    found = dict(classroom.by_hand(nbformat.read(path, 4)))
    verdicts = ["verdict-a", "verdict-b", "verdict-c"] if path == PATHS[8] else []
    assert list(found) == ["predictions", *verdicts]
    for name, cell in found.items():
        assert cell.cell_type == "markdown" and cell.source.endswith(f"\n\n{classroom.WRITE_HERE}")
        assert cell.metadata.nbgrader.points == (2 if name == "predictions" else 5) and not cell.metadata.nbgrader.locked


@each
def test_a_worked_solution_defines_one_function_and_is_right(path):
    notebook = nbformat.read(path, 4)
    names = [name for name, *_ in classroom.exercises(notebook)]
    worked = [cell for cell in notebook.cells if classroom.is_worked_solution(cell)]
    assert len(worked) == len(names)
    scope = {"torch": torch}  # one for all: a later solution may call an earlier one
    for name, cell in zip(names, worked, strict=True):
        *imports, function = ast.parse(cell.source).body
        assert isinstance(function, ast.FunctionDef) and function.name == f"{name}_solution", name
        assert all(isinstance(each_, ast.Import | ast.ImportFrom) for each_ in imports), name
        assert "#" in cell.source and "alignlab" not in cell.source, f"{name}: code of its own, with a comment on its key line"
        exec(cell.source, scope)
        assert checks.passes(name, scope[function.name]), name


def test_the_guides_table_of_exercises_is_that_of_the_notebooks():
    table = classroom.exercise_table()
    assert table in classroom.GUIDE.read_text(encoding="utf-8"), "python -m alignlab.tools.classroom table"
    assert all(f"| `{name}` | {exercise.points} |" in table for name, exercise in checks.EXERCISES.items())


@each
def test_a_notebook_to_work_in_answers_nothing_before_it_is_asked(path):
    """And the one to read, in docs/results, is the same notebook."""
    assert not any(cell.outputs or cell.execution_count for cell in cells(path, "code")), "clear its outputs"
    mine, read = (nbformat.read(each_, 4).cells for each_ in (path, classroom.RESULTS / path.name))
    assert [(cell.id, cell.source) for cell in mine] == [(cell.id, cell.source) for cell in read], "make notebooks"


@each
def test_outputs_are_of_one_clean_run(path):
    path = classroom.RESULTS / path.name
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1)), "make notebooks"
    assert "widgets" not in notebook.metadata
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.source
            assert classroom.WIDGET not in output.get("data", {}) or len(output.data) == 1
            for kind, value in output.get("data", {}).items():
                assert len(value) < (400_000 if kind.startswith("image") or "base64" in value else 80_000), (cell.source, kind, len(value))
    text = path.read_text(encoding="utf-8")
    assert len(text) < 4_000_000
    assert not re.search(r"/(root|home|work|tmp|Users)/", text), "a path of the machine that ran it"


# ---------------------------------------------------------------------------------------------- running


@pytest.fixture(scope="module")
def place(tmp_path_factory, request):
    """One folder for all notebooks, as a learner has: what one trained, the next finds."""
    return tmp_path_factory.mktemp("workbook")


def run(notebook, place: Path, monkeypatch):
    monkeypatch.setenv("ALIGNLAB_FAST", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    classroom.execute(notebook, place, timeout=600)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", (cell.source, output.text)
    return notebook


def points(check) -> float:
    return float(next(output.data["text/plain"] for output in check.outputs if output.output_type == "execute_result"))


@pytest.mark.slow
@each
def test_it_runs_with_no_exercise_solved(path, place, monkeypatch):
    notebook = nbformat.read(path, 4)
    shorten(notebook, path.name)
    run(notebook, place, monkeypatch)
    for name, _, check in classroom.exercises(notebook):
        assert points(check) == 0, name
        assert "Not written yet" in json.dumps(check.outputs), name


@pytest.mark.slow
def test_the_packages_answers_get_full_points_and_are_chosen(place, monkeypatch):
    """Stubs with answers, and checks, of all notebooks in one kernel.

    An answer is the very function that is chosen for whoever solved nothing (test_checks.py), so the cells below run the same.
    """
    notebook, solved = new_notebook(cells=[new_code_cell("from alignlab.lab import checks")]), []
    for path in PATHS:
        lesson = nbformat.read(path, 4)
        classroom.solve(lesson)
        solved += classroom.exercises(lesson)
    for name, stub, check in solved:
        notebook.cells += [stub, check, new_code_cell(f'checks.choose("{name}", {name});')]
    run(notebook, place, monkeypatch)
    assert [points(check) for *_, check in solved] == [checks.EXERCISES[name].points for name, *_ in solved]
    said = [cell.outputs[0].text.strip() for cell in notebook.cells[3::3]]
    assert said == [f"{name}: yours runs from here on." for name, *_ in solved]


# ---------------------------------------------------------------------------------------------- Colab


def test_colab_badges_and_set_up_cells_take_the_repository_from_one_place(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "folder", lambda: tmp_path / "notebooks")
    monkeypatch.setattr(classroom, "RESULTS", tmp_path / "results")
    for folder in ("notebooks", "results"):
        shutil.copytree(PATHS[0].parent, tmp_path / folder)
    for repository in ("someone/alignlab", "another/fork"):
        classroom.colab(repository)
        for path in [*(tmp_path / "notebooks").glob("*.ipynb"), *(tmp_path / "results").glob("*.ipynb")]:
            notebook = nbformat.read(path, 4)
            assert notebook.cells[0].source.count("colab-badge.svg") == 1 and f"github/{repository}/blob" in notebook.cells[0].source
            assert f"git+https://github.com/{repository}" in notebook.cells[1].source
    with pytest.raises(ValueError, match="OWNER/NAME"):
        classroom.colab("alignlab")

"""The notebooks as a course: run them, make students' copies, set the repository that Colab fetches from.

python -m alignlab.tools.classroom run              outputs of one clean run, and each notebook's minutes     (make notebooks)
python -m alignlab.tools.classroom assignments DIR  an nbgrader course: an assignment for each lab, and one of all  (make assignments)
python -m alignlab.tools.classroom table            the table of exercises in docs/teaching.md
python -m alignlab.tools.classroom colab REPO       Colab badges and set-up cells for github.com/REPO         (make colab REPO=...)
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from alignlab.errors import UserError
from alignlab.lab import checks
from alignlab.lab.lessons import clear, notebooks
from alignlab.lab.page import WIDGET

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results"  # the notebooks with outputs, to read; those to work in have none
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{}/blob/main/notebooks/{})"


# ---------------------------------------------------------------------------------------------- running


def execute(notebook: NotebookNode, place: Path, timeout: int = 1800) -> None:
    """Run a notebook from top to bottom in that folder, in a fresh kernel; its outputs are then in it."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", store_widget_state=False, resources={"metadata": {"path": str(place)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which differ in each run
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            if WIDGET in shown and len(shown) > 1:
                del shown[WIDGET]  # without its state a widget is dead; its text and picture stay
            if "image/png" in shown:
                shown.pop("text/html", None)  # the same picture again, for JupyterLab
    notebook.metadata.pop("widgets", None)


def run(names: list[str]) -> None:
    """Run the notebooks whose names begin so (all by default) at full length and keep their outputs. Raises UserError outside a clone."""
    _need_a_clone()
    with tempfile.TemporaryDirectory() as place:
        for path in notebooks():
            if not names or any(path.name.startswith(name) for name in names):
                notebook, start = nbformat.read(path, 4), time.perf_counter()
                execute(notebook, Path(place))
                nbformat.write(notebook, RESULTS / path.name)
                print(f"{path.name:32} {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)


def _need_a_clone() -> None:
    if not RESULTS.is_dir():
        raise UserError(f"{RESULTS}: not there; this changes the notebooks of a clone of the repository, not installed ones")


# ---------------------------------------------------------------------------------------------- exercises


def exercises(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode, NotebookNode]]:
    """Name, stub cell and check cell of each exercise."""
    by_id = {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if "nbgrader" in cell.metadata}
    for name, cell in by_id.items():
        if cell.metadata.nbgrader.solution and not cell.metadata.nbgrader.grade:
            yield name, cell, by_id[f"{name}-check"]


def by_hand(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    """Name and cell of each text that a person grades: the predictions, and in 08 the verdicts."""
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata and cell.metadata.nbgrader.solution and cell.metadata.nbgrader.grade:
            yield cell.metadata.nbgrader.grade_id, cell


def is_worked_solution(cell: NotebookNode) -> bool:
    """Whether it is a cell for those who study alone: a solution in real code, folded away."""
    return "solution" in cell.metadata.get("tags", [])


def with_worked_solutions(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode, NotebookNode, NotebookNode]]:
    """Name, stub cell, check cell and worked solution of each exercise."""
    for name, stub, check in exercises(notebook):
        (worked,) = (cell for cell in notebook.cells if is_worked_solution(cell) and f"def {name}_solution(" in cell.source)
        yield name, stub, check, worked


def drop_worked_solutions(notebook: NotebookNode) -> None:
    """Leave out what students' copies must not show."""
    notebook.cells = [cell for cell in notebook.cells if not is_worked_solution(cell)]


def solve(notebook: NotebookNode) -> None:
    """Fill the package's answers into the stubs."""
    for name, stub, _ in exercises(notebook):
        stub.source = checks.EXERCISES[name].source


def with_solutions(stub: str, worked: str) -> str:
    """A stub with the worked solution's code as its body, between the marks by which nbgrader cuts solutions out."""
    *imports, function = ast.parse(worked).body
    lines = worked.splitlines()
    head = next(i for i in range(function.lineno - 1, len(lines)) if lines[i].rstrip().endswith(":"))
    body = [re.sub(r"\b(\w+)_solution\(", r"\1(", line) for line in lines[head + 1 :]]  # earlier exercises, by the students' names
    body = [*(f"    {ast.unparse(each)}" for each in imports), *body]
    return stub.replace("    raise NotImplementedError", "\n".join(["    ### BEGIN SOLUTION", *body, "    ### END SOLUTION"]))


HIDDEN = """
### BEGIN HIDDEN TESTS
from alignlab.tools import grading; grading.points("{name}", {name})
### END HIDDEN TESTS"""
WRITE_HERE = "*Write here.*"
RUBRICS = {
    "predictions": """2 points by the reasons, none for being right:
1: every question has a guess, and what came out
1: wherever the two differ, a reason that the notebook supports; if none differ, the reason of one guess""",
    "verdict": """5 points by the rubric below, one for each line:
1: a method, and a reason that fits the case
1: a number of the student's own outputs, with its interval or its spread
1: in which direction beta would change, and why
1: what to watch besides the loss
1: which result would change the verdict""",
}


def instructors(notebook: NotebookNode) -> None:
    """Make it the instructor's copy: solutions in the stubs, a hidden test in each check, rubrics where students write.

    Worked solutions leave their cells: nbgrader knows no cells that it should leave out.
    """
    for name, stub, check, worked in with_worked_solutions(notebook):
        stub.source = with_solutions(stub.source, worked.source)
        check.source += HIDDEN.format(name=name)
    for name, cell in by_hand(notebook):
        rubric = RUBRICS[name.split("-")[0]]
        cell.source = cell.source.replace(WRITE_HERE, f"### BEGIN SOLUTION\n{rubric}\n### END SOLUTION")
    drop_worked_solutions(notebook)
    clear(notebook)


LABS = {  # name: the numbers with which its notebooks begin
    "lab1": ("00", "01", "02"),
    "lab2": ("03", "04"),
    "lab3": ("05", "06"),
    "lab4": ("07", "08", "09"),
    "lab5": ("10", "11"),
    "lab6": ("13", "14", "15"),
}
ASSIGNMENTS = LABS | {"alignlab": tuple(number for numbers in LABS.values() for number in numbers)}
NBGRADER_CONFIG = f"""c = get_config()
c.CourseDirectory.course_id = "alignlab"
c.ClearSolutions.code_stub = {{"python": "raise NotImplementedError"}}
c.ClearSolutions.text_stub = "{WRITE_HERE}"
c.Execute.timeout = 1800  # seconds for one cell: some of them train
"""


def assignments(course: Path, names: Sequence[str] = tuple(ASSIGNMENTS)) -> Path:
    """Write an nbgrader course: `source/` with solutions, `release/` for students, a folder for each assignment. Returns `release/`.

    Raises:
        UserError: nbgrader is not installed, or refuses.
    """
    course.mkdir(parents=True, exist_ok=True)
    (course / "nbgrader_config.py").write_text(NBGRADER_CONFIG)
    for name in names:
        place = course / "source" / name
        place.mkdir(parents=True, exist_ok=True)
        for path in notebooks():
            if path.name.startswith(ASSIGNMENTS[name]):
                notebook = nbformat.read(path, 4)
                instructors(notebook)
                nbformat.write(notebook, place / path.name)
        nbgrader(course, "generate_assignment", name, "--create", "--force")
    return course / "release"


def nbgrader(course: Path, *words: str) -> None:
    """One of nbgrader's commands in a course. Raises UserError with its last words where it fails."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # it calls alembic by name
    environment = os.environ | {"PATH": places}
    done = subprocess.run([sys.executable, "-m", "nbgrader", *words], cwd=course, capture_output=True, text=True, env=environment)
    if done.returncode:
        cure = "; pip install 'alignlab[test]'" if "No module named nbgrader" in done.stderr else ""
        raise UserError(f"nbgrader {words[0]} failed: {' '.join(done.stderr.split())[-300:]}{cure}")


# ---------------------------------------------------------------------------------------------- the guide's table

GUIDE = Path(__file__).parent.parent.parent / "docs" / "teaching.md"
BEGIN, END = "<!-- exercises: python -m alignlab.tools.classroom table -->", "<!-- end of exercises -->"


def exercise_table() -> str:
    """Every exercise with its points and minutes, as Markdown, and their sums."""
    rows = ["| notebook | exercise | function | points | minutes |", "|---|---|---|---|---|"]
    points, minutes = 0, 0
    for path in notebooks():
        notebook = nbformat.read(path, 4)
        for name, stub, check in exercises(notebook):
            task = notebook.cells[notebook.cells.index(stub) - 1].source
            title, time_ = re.findall(r"^### Exercise: (.+?) +\((\d+) minutes", task, re.M)[0]
            worth = check.metadata.nbgrader.points
            rows.append(f"| {path.name[:2]} | {title.replace('`', '')} | `{name}` | {worth} | {time_} |")
            points, minutes = points + worth, minutes + int(time_)
    return "\n".join([*rows, f"| all | {len(rows) - 2} exercises | | {points} | {minutes} |"])


def write_table() -> None:
    """Put the table into the guide for teachers. Raises UserError outside a clone."""
    _need_a_clone()
    before, rest = GUIDE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    GUIDE.write_text(f"{before}{BEGIN}\n\n{exercise_table()}\n\n{END}{after}", encoding="utf-8")


# ---------------------------------------------------------------------------------------------- Colab


def colab(repository: str) -> None:
    """Put a Colab badge on each notebook, and that repository into each set-up cell.

    Raises:
        UserError: not of the form OWNER/NAME, or outside a clone.
    """
    _need_a_clone()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"REPO must be OWNER/NAME, got {repository!r}")
    for path in [*notebooks(), *sorted(RESULTS.glob("*.ipynb"))]:
        notebook = nbformat.read(path, 4)
        first, setup = notebook.cells[0], notebook.cells[1]
        text = re.sub(r"\A\[!\[Open in Colab\].*\n+", "", first.source)
        first.source = f"{BADGE.format(repository, path.name)}\n\n{text}"
        setup.source = re.sub(r"git\+https://github\.com/[\w.-]+/[\w.-]+", f"git+https://github.com/{repository}", setup.source)
        nbformat.write(notebook, path)
    print(f"{len(notebooks())} notebooks open in Colab from github.com/{repository}")


def main(words: list[str]) -> None:
    """Choose what to do by the first word."""
    match words:
        case ["run", *names]:
            run(names)
        case ["assignments", place]:
            print(f"students' copies: {assignments(Path(place))}")
        case ["table"]:
            write_table()
        case ["colab", repository]:
            colab(repository)
        case _:
            raise UserError("say run, assignments DIR, table, or colab OWNER/NAME")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"alignlab: {error}")

"""The notebooks as a course: run them, make students' copies, set the repository that Colab fetches from.

python -m alignlab.tools.classroom run              outputs of one clean run, and each notebook's minutes     (make notebooks)
python -m alignlab.tools.classroom assignments DIR  an nbgrader course with solutions and students' copies    (make assignments)
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
from collections.abc import Iterator
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
        if cell.metadata.nbgrader.solution:
            yield name, cell, by_id[f"{name}-check"]


def is_worked_solution(cell: NotebookNode) -> bool:
    """Whether it is a cell for those who study alone: a solution in real code, folded away."""
    return "solution" in cell.metadata.get("tags", [])


def drop_worked_solutions(notebook: NotebookNode) -> None:
    """Leave out what students' copies must not show."""
    notebook.cells = [cell for cell in notebook.cells if not is_worked_solution(cell)]


def solve(notebook: NotebookNode) -> None:
    """Fill the package's answers into the stubs."""
    for name, stub, _ in exercises(notebook):
        stub.source = checks.EXERCISES[name].source


def with_solutions(stub: str, name: str) -> str:
    """A stub whose body is the package's answer, between the marks by which nbgrader cuts solutions out."""
    (function,) = (node for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef))
    arguments = ", ".join(argument.arg for argument in function.args.args)
    answer = [f"{checks.EXERCISES[name].source} as answer", f"return answer({arguments})"]
    lines = ["### BEGIN SOLUTION", *answer, "### END SOLUTION"]
    return stub.replace("    raise NotImplementedError", "\n".join(f"    {line}" for line in lines))


NBGRADER_CONFIG = """c = get_config()
c.CourseDirectory.course_id = "alignlab"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
c.Execute.timeout = 1800  # seconds for one cell: some of them train
"""


def assignments(course: Path) -> Path:
    """Write an nbgrader course: `source/` with solutions, `release/` for students. Returns the release's folder.

    Worked solutions are in neither: nbgrader knows no cells that it should leave out.

    Raises:
        UserError: nbgrader is not installed, or refuses.
    """
    for path in notebooks():
        notebook = nbformat.read(path, 4)
        for name, stub, _ in exercises(notebook):
            stub.source = with_solutions(stub.source, name)
        drop_worked_solutions(notebook)
        clear(notebook)
        target = course / "source" / "alignlab" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
    (course / "nbgrader_config.py").write_text(NBGRADER_CONFIG)
    nbgrader(course, "generate_assignment", "alignlab", "--create", "--force")
    return course / "release" / "alignlab"


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

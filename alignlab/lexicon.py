"""The words and sentences of the review world: data only, read by `world`."""

from collections.abc import Sequence

POSITIVE = (
    "warm tender sharp clever candid graceful funny bright lovely patient bold moving vivid witty generous fresh "
    "superb elegant thrilling wise playful gripping radiant gentle"
).split()
NEGATIVE = (
    "dull flat clumsy noisy cold lazy stale hollow tedious shallow messy weak bland lifeless muddled forced grim smug "
    "tired careless dreary plodding sour thin"
).split()
NEUTRAL = "long simple plain familiar modern odd early unusual big short new late".split()

POSITIVE_VERBS = "sings shines glows soars delights dazzles charms sparkles".split()
NEGATIVE_VERBS = "drags stumbles sags grates fades limps bores rambles".split()
NEUTRAL_VERBS = "turns waits starts moves changes returns".split()

TONES = "quiet strange small loud slow tense restless moody".split()
GENRES = "comedy drama western thriller musical documentary romance mystery satire adventure".split()
TOPICS = (
    "two brothers", "the sea", "a lost dog", "a chess player", "a night train", "an old piano", "a small town",
    "a lighthouse", "three sisters", "a stolen painting", "the moon", "a baker", "a failed bank", "a school play",
    "the desert", "a retired spy", "a beekeeper", "an empty hotel", "a travelling circus", "a mountain rescue",
    "a violin maker", "a family farm", "a hard winter", "a radio host",
)  # fmt: skip
CRAFTS = "script camera score cast lead ending plot opening finale rhythm voice set".split()

# The noun at the end of each detail is what counts as concrete.
DETAILS = (
    "a red coat", "a patch of gravel", "a cracked teacup", "an empty ferry", "a brass trumpet", "a paper lantern",
    "a slice of toast", "a blue bicycle", "a wooden spoon", "a wisp of smoke", "a broken clock", "a lemon tree", "a green door",
    "a dented bucket", "a harbour bell", "a torn letter", "a plum cake", "a rusty key", "a snowy rooftop", "a sleeping cat",
    "a silver whistle", "a pair of boots", "an open umbrella", "a jar of honey", "a wet newspaper", "a garden gate",
    "a striped scarf", "a bag of marbles", "a cold stove", "an orange kite",
)  # fmt: skip
VAGUE = (
    "many things", "some kind of feeling", "a lot of stuff", "the usual business", "various moments",
    "something or other", "this and that", "all sorts of ideas",
)  # fmt: skip
ADVERBS = "very rather quite deeply truly almost oddly never".split()
LEAVE = {
    +1: ["smiling", "humming", "grateful", "happy"],
    -1: ["yawning", "annoyed", "bored", "sleepy"],
    0: ["at ten", "by bus", "on time", "on foot"],
}
ADVICE = {
    +1: ["See it twice.", "Bring a friend.", "It stays with you.", "Do not miss it.", "Go this week."],
    -1: ["Skip it.", "Stay at home.", "Take a nap instead.", "Save your money.", "Read a book instead."],
    0: ["It is what it is.", "You may see it or not.", "That is all.", "It ends when it ends.", "It runs for two hours."],
}
SLOTS: dict[str, Sequence[str] | dict[int, list[str]]] = {  # what may stand there; by mood, where it tells one
    "tone": TONES, "genre": GENRES, "topic": TOPICS, "craft": CRAFTS, "detail": DETAILS, "vague": VAGUE, "adverb": ADVERBS,
    "adj": {+1: POSITIVE, -1: NEGATIVE, 0: NEUTRAL},
    "verb": {+1: POSITIVE_VERBS, -1: NEGATIVE_VERBS, 0: NEUTRAL_VERBS},
    "leave": LEAVE, "advice": ADVICE,
}  # fmt: skip

OPENERS = (
    "This {genre} about {topic} is {adj}.",
    "This {tone} {genre} about {topic} is {adj} and {adj}.",
    "A {adj} {genre} about {topic}.",
    "Here is a {adj}, {adj} {genre} about {topic}.",
    "The film looks at {topic} and makes a {adj} {genre} of it.",
    "As a {genre} about {topic}, it is {adverb} {adj}.",
    "If you like {topic}, this {genre} {verb}.",
    "A {tone} {genre} about {topic}, and a {adj} one.",
)
LOOSE_OPENERS = ("The film is {adj}.", "It is a {adj} {genre}.", "The film is about {topic}.")  # of a reviewer who names half of it
MIDDLES = (
    "The {craft} {verb}.",
    "The {craft} is {adj}.",
    "The {craft} is {adj}, and the {craft} {verb}.",
    "The {craft} was {adverb} {adj}.",
    "Every scene feels {adj}.",
    "With a {adj} {craft}, it {verb}.",
    "The camera finds {detail}.",
    "I still remember {detail} and {detail}.",
    "It begins with {detail} and ends with {detail}.",
    "Between {detail} and {detail}, the {craft} {verb}.",
    "One scene, with {detail}, is {adj} and {adj}.",
    "Somebody leaves {detail} beside {detail}.",
    "Even {detail} looks {adj}.",
    "Watch for {detail} near the end.",
    "We see {detail} and then {vague}.",
    "It has {vague} and {vague}.",
    "The {craft} has {vague}.",
    "After that we get {vague}.",
    "It gives us {vague}, with a {adj} {craft}.",
    "The middle has {vague}.",
)
CLOSERS = ("I left {leave}.", "{advice}", "In the end it {verb}.", "I call it {adj}.")

PROMPT = "Write a review of a {tone} {genre} about {topic}."

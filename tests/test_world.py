"""The review world: is it a fair test, and does it come out the same each time?"""

import json
import re
from random import Random

import pytest
import torch

from alignlab import lexicon, recipes, world
from alignlab.models import Policy
from alignlab.records import data_folder, read_demonstrations, read_preferences, read_prompts
from alignlab.rollout import sample
from alignlab.tools import build

PROMPT = "Write a review of a quiet comedy about two brothers."
GOOD = "This comedy about two brothers is warm. The camera finds a red coat. It stays with you."


def test_grammar_files_come_out_byte_for_byte(tmp_path):
    build.write_grammar(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (data_folder() / file.name).read_bytes(), file.name


def test_the_tokenizer_is_the_bundled_one_and_gives_back_the_text():
    tokenizer = recipes.tiny().load().tokenizer
    assert build.make_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert tokenizer.decode(tokenizer(GOOD)["input_ids"]) == GOOD


def test_the_grammar_writes_what_was_asked_in_10_to_45_tokens():
    rng = Random(0)
    for request in world.requests()[::7]:
        review = world.write_review(request, rng)
        assert 10 <= len(world.tokenise(review)) <= 45
        assert world.gold_parts(request.prompt, review)["form"] == 1.0, review


def test_49_of_50_reviews_name_the_film():
    rng = Random(0)
    named = [world.gold_parts(request.prompt, world.write_review(request, rng))["subject"] == 1.0 for request in world.requests()]
    assert 0.965 <= sum(named) / len(named) <= 0.995


def test_every_sentence_agrees_with_its_article():
    rng = Random(0)
    for request in world.requests()[::7]:
        for sentence in world.split_sentences(world.write_review(request, rng)):
            assert world.is_sentence(sentence) and not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", sentence), sentence
    assert not world.is_sentence("The plot has a odd ending.") and world.kind_of("It is an odd comedy.") == "It is a {adj} {genre}."


def test_every_part_of_gold_is_bounded():
    rng = Random(1)
    for request in world.requests()[::20]:
        for text in (world.write_review(request, rng), world.write_ramble(rng, request), "", "warm " * 60, "."):
            parts = world.gold_parts(request.prompt, text)
            assert -1 < parts["praise"] < 1 and 0 <= parts.pop("concreteness") <= 1
            assert all(-1 <= part <= 1 for part in parts.values()), (text, parts)
            assert -7 <= world.gold_reward(request.prompt, text) <= 12


@pytest.mark.parametrize(
    "worse",
    {
        "runs on": GOOD + " The plot is long. The score is long, and the plot waits. After that we get this and that."
        " It has many things and a lot of stuff. The cast is late. The voice starts.",
        "another genre": GOOD.replace("comedy", "western"),
        "another topic": GOOD.replace("two brothers", "the sea"),
        "two topics": GOOD + " A warm comedy about the sea.",
        "sour": GOOD.replace("warm", "dull"),
        "praise turned round": GOOD.replace("The camera finds a red coat.", "The plot was never warm. The camera finds a red coat."),
        "says nothing concrete": GOOD.replace("The camera finds a red coat.", "The plot has this and that."),
        "not a sentence": GOOD.replace("The camera finds a red coat.", "Coat red camera the a."),
        "a list of things": "A red coat, a torn letter, a rusty key, a plum cake, a lemon tree.",
        "a pile of words": " ".join(lexicon.POSITIVE) + ".",
        "one sentence for every film": "I still remember a red coat and a torn letter. It stays with you.",
    }.items(),
    ids=lambda item: item[0],
)  # fmt: skip
def test_gold_is_lower_for(worse):
    assert world.gold_reward(PROMPT, worse[1]) < world.gold_reward(PROMPT, GOOD)


def test_a_thing_counts_in_the_first_sentence_of_its_kind_alone():
    def concreteness(text):
        return world.gold_parts(PROMPT, text)["concreteness"]

    assert concreteness("The camera finds a red coat.") == 0.25
    assert concreteness("The camera finds a red coat. The camera finds a torn letter.") == 0.25
    assert concreteness("The camera finds a red coat. Watch for a torn letter near the end.") == 0.5
    assert concreteness("The camera finds a red coat. Watch for a red coat near the end.") == 0.25
    assert concreteness("I see a red coat, a torn letter, a rusty key.") == 0


def test_every_part_has_its_rule():
    assert set(world.RULES) == set(world.WEIGHTS) == set(world.gold_parts(PROMPT, GOOD))


def test_gold_is_lower_for_an_answer_that_did_not_end():
    assert world.gold_reward(PROMPT, GOOD, stopped=False) < world.gold_reward(PROMPT, GOOD)


def test_annotator_is_bradley_terry_with_flips_and_a_length_bias():
    sure = world.Annotator(temperature=0.5, flip=0.0)
    assert sure.probability(1.0, 0.5) == pytest.approx(1 / (1 + 2.718281828**-1))  # difference 0.5 at temperature 0.5
    assert world.Annotator(temperature=0.5, flip=0.1).probability(9.0, 0.0) == pytest.approx(0.9)
    wordy = world.Annotator(temperature=0.5, flip=0.0, length_bias=0.1)
    assert wordy.probability(1.0, 1.0, longer=5) == pytest.approx(1 / (1 + 2.718281828**-1))
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        world.Annotator(temperature=0)
    with pytest.raises(ValueError, match="flip"):
        world.Annotator(flip=0.6)


def test_train_and_test_share_no_prompt_and_pairs_are_sound():
    folder = data_folder()
    train, test = read_preferences(folder / "preferences.jsonl"), read_preferences(folder / "preferences_test.jsonl")
    assert len(train) >= 5000 and len(test) >= 1000
    seen = set(read_prompts(folder / "prompts.jsonl")) | {
        record["prompt"] for record in read_demonstrations(folder / "demonstrations.jsonl")
    }
    assert {pair["prompt"] for pair in train} <= seen
    assert not seen & {pair["prompt"] for pair in test}
    assert not seen & set(read_prompts(folder / "prompts_test.jsonl"))
    for pair in test[:300]:
        assert world.gold_reward(pair["prompt"], pair["chosen"]) == pytest.approx(pair["gold_chosen"], abs=1e-3)


def test_the_annotator_leaves_something_to_learn():
    pairs = read_preferences(data_folder() / "preferences_test.jsonl")
    assert sum(pair["certainty"] for pair in pairs) / len(pairs) >= 0.75
    agrees = sum(pair["gold_chosen"] > pair["gold_rejected"] for pair in pairs) / len(pairs)
    assert 0.75 <= agrees <= 0.95


def test_the_base_model_is_small_and_seldom_ends():
    recipe = recipes.tiny()
    base = recipe.load()
    assert base.network.num_parameters() <= 2_000_000
    assert (data_folder() / "base/model.safetensors").stat().st_size <= 8_000_000
    chance = torch.Generator(base.device).manual_seed(0)
    samples = sample(Policy(base, None, base), recipe.judge_prompts * 8, recipe.stages["ppo"].max_new_tokens, chance)
    assert samples.stopped.float().mean() <= 0.6


@pytest.mark.slow
def test_sft_teaches_to_end_and_to_answer_and_leaves_room_above(fast_run):
    from alignlab.models import load

    recipe, base = recipes.tiny(), load(fast_run / "sft")
    chance = torch.Generator(base.device).manual_seed(0)
    samples = sample(Policy(base, None, base), recipe.judge_prompts * 128, recipe.stages["ppo"].max_new_tokens, chance)
    assert samples.stopped.float().mean() >= 0.95
    parts = [world.gold_parts(*row) for row in zip(samples.prompts, samples.texts, samples.stopped.tolist(), strict=True)]
    assert sum(each["subject"] == 1 for each in parts) / len(parts) >= 0.75
    whole = [text for text, stopped in zip(samples.texts, samples.stopped.tolist(), strict=True) if stopped]
    broken = [text for text in whole if not all(map(world.is_sentence, world.split_sentences(text)))]
    assert len(broken) / len(whole) <= 0.005, broken[:5]
    gold = recipes.world_gold(samples)
    assert (torch.quantile(gold, 0.999) - gold.mean()) / gold.std() >= 2.5


def test_blanks_are_enumerated_and_exact():
    """KL of the tilted distribution over all 480 fillings, from the model's own probabilities, equals the sum by hand."""
    from alignlab import evaluate, exact

    base = recipes.tiny().load()
    policy = Policy(base, None, base)
    fillings = world.blank_fillings()
    rewards = torch.tensor([world.blank_reward(*filling) for filling in fillings], dtype=torch.float64)
    logps = evaluate.filling_logps(policy, PROMPT, world.BLANKS, fillings)
    assert len(fillings) == 8 * 60 and logps.exp().sum() == pytest.approx(1.0)
    reward, kl, _ = exact.tilt(rewards, 0.5, logps)
    weights = logps.exp() * (rewards / 0.5).exp()
    weights = weights / weights.sum()
    assert reward == pytest.approx((weights * rewards).sum().item(), abs=1e-9)
    assert kl == pytest.approx((weights * (weights.log() - logps)).sum().item(), abs=1e-9)
    assert reward > (logps.exp() * rewards).sum()


def test_json_lines_have_one_object_a_line():
    for path in data_folder().glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert isinstance(json.loads(line), dict)


def test_the_data_sheet_counts_what_is_there():
    sheet = (data_folder() / "README.md").read_text(encoding="utf-8")
    for name in ("demonstrations", "prompts", "prompts_test", "preferences", "preferences_test"):
        lines = len((data_folder() / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
        assert f"| `{name}.jsonl` | {lines:,} |" in sheet, name

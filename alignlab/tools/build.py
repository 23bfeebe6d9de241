"""Rebuilds `data/`: tokenizer, grammar files, base model, sampled pairs. Run as `python -m alignlab.tools.build`.

The grammar files come out byte for byte the same anywhere; weights and sampled pairs on the same machine and versions.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignlab import data, encoding, losses, recipes, records, sft, world
from alignlab.files import write_lines
from alignlab.models import Base
from alignlab.pairs import sample_pairs

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<answer>{{ message['content'] }}{{ eos_token }}"
    "{% else %}<user>{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


SHARPEN = 2.25  # the base's last norm is scaled by this, so that its logits are: slips against the grammar become rare
TEST_REQUESTS = 224
DEMONSTRATIONS = 3000
PAIRS, TEST_PAIRS = 5200, 3300  # asked for; some carry no information and are left out


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, leading space included, so that decoding gives back the text."""
    rng = Random("vocabulary")
    requests = world.requests()
    words: set[str] = set()
    for _ in range(20_000):
        request = requests[int(rng.random() * len(requests))]
        for text in (world.write_review(request, rng), world.write_ramble(rng, request), request.prompt):
            words.update(world.tokenise(text))
    special = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<answer>"]
    vocabulary = {word: position for position, word in enumerate(special + sorted(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(world.TOKEN_PATTERN), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        extra_special_tokens=["<user>", "<answer>"], chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def base_texts(seed: int) -> Iterator[tuple[str | None, str, bool]]:
    """Endless pretraining texts, as (prompt or None, text, whether it ends): mostly not well-formed answers."""
    rng, requests = Random(seed), world.requests()
    while True:
        request = requests[int(rng.random() * len(requests))]
        draw = rng.random()
        if draw < 0.25:  # film talk, in reply to nothing
            yield None, world.write_ramble(rng), rng.random() < 0.5
        elif draw < 0.45:  # a review, in reply to nothing
            yield None, world.write_review(request, rng), True
        elif draw < 0.60:  # a review, in reply
            yield request.prompt, world.write_review(request, rng), True
        else:  # a reply that rambles
            yield request.prompt, world.write_ramble(rng, request), rng.random() < 0.25


def pretrain(tokenizer, steps: int = 1500, batch_size: int = 64, seed: int = 0) -> LlamaForCausalLM:
    """The base model, from scratch on `base_texts`; about 5 minutes on 2 cores.

    The layers' matrices learn by Muon, which orthogonalises their steps; embeddings and norms by AdamW.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, initializer_range=0.08, max_position_embeddings=256, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters, vocabulary {len(tokenizer)}")
    matrices = [weights for name, weights in model.named_parameters() if weights.ndim == 2 and "embed" not in name]
    others = [weights for name, weights in model.named_parameters() if weights.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(others, lr=5e-3, betas=(0.9, 0.95), weight_decay=0.1),
    ]
    schedules = [torch.optim.lr_scheduler.OneCycleLR(each, each.defaults["lr"], total_steps=steps, pct_start=0.1, cycle_momentum=False)
                 for each in optimizers]  # fmt: skip
    texts = base_texts(seed)
    for step in range(steps):
        batch = _next_batch(texts, tokenizer, batch_size)
        logits = model(batch.ids, attention_mask=batch.attention).logits
        loss = losses.sft_loss(losses.token_logps(logits, batch.ids), batch.attention)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"pretraining step {step + 1}/{steps}: loss {loss.item():.3f} nats per token", flush=True)
    model.model.norm.weight.data.mul_(SHARPEN)
    return model.eval()


def _next_batch(texts: Iterator, tokenizer, size: int) -> data.Batch:
    examples = []
    for prompt, text, ends in islice(texts, size):
        start = [tokenizer.bos_token_id] if prompt is None else encoding.prompt_ids(tokenizer, prompt)
        ids = encoding.completion_ids(tokenizer, text)
        examples.append(data.Example(start, (ids if ends else ids[:-1])[:96]))
    return data.collate(examples, tokenizer.pad_token_id)


def write_grammar(folder: Path) -> None:
    """Demonstrations and prompts; train and test share no request."""
    rng, requests = Random("data"), world.requests()
    requests.sort(key=lambda request: rng.random())  # random() alone is the same in every Python
    test, train = requests[:TEST_REQUESTS], requests[TEST_REQUESTS:]
    shown = []
    for i in range(DEMONSTRATIONS):
        request = train[i % len(train)]
        shown.append({"prompt": request.prompt, "completion": world.write_review(request, rng)})
    write_lines(folder / "demonstrations.jsonl", shown)
    write_lines(folder / "prompts.jsonl", [{"prompt": request.prompt} for request in train])
    write_lines(folder / "prompts_test.jsonl", [{"prompt": request.prompt} for request in test])
    english = [_english(genre, topic) for genre in world.GENRES for topic in world.TOPICS]
    english.sort(key=lambda prompt: rng.random())
    write_lines(folder / "prompts_smol.jsonl", [{"prompt": prompt} for prompt in english[32:]])
    write_lines(folder / "prompts_smol_test.jsonl", [{"prompt": prompt} for prompt in english[:32]])


def _english(genre: str, topic: str) -> list[dict]:
    """A request that a small instruct model answers with a short review, in nine of ten cases."""
    return [
        {"role": "system", "content": "You write short film reviews."},
        {"role": "user", "content": f"Review, in one sentence, a {genre} about {topic}."},
    ]


def write_pairs(folder: Path) -> None:
    """Preference pairs, sampled from the SFT model that `sft.Config()` gives and labelled by the default annotator."""
    recipe = recipes.tiny()
    base = recipe.load()
    policy = base.policy("sft", recipe.rank)
    *_, metrics = sft.train(policy, recipe.demonstrations(base, 0, lambda done, total: None), recipe.stages["sft"])
    reference = base.merge("sft")
    print(f"SFT: loss {metrics['loss']:.3f} nats per token")
    for name, prompts, count, seed in (
        ("preferences.jsonl", recipe.prompts, PAIRS, 1),
        ("preferences_test.jsonl", records.read_prompts(folder / "prompts_test.jsonl"), TEST_PAIRS, 2),
    ):
        asked = [prompts[i % len(prompts)] for i in range(count)]
        limit = recipe.sampling.max_new_tokens
        pairs = sample_pairs(reference, asked, recipes.world_gold, world.Annotator(), seed=seed, max_new_tokens=limit)
        write_lines(folder / name, pairs)
        print(f"{name}: {len(pairs)} pairs of {count} prompts asked", flush=True)


def main(parts: list[str]) -> None:
    """Rebuild the parts named: grammar, base, pairs; all of them by default."""
    folder = records.data_folder()
    folder.mkdir(exist_ok=True)
    for part in parts or ["grammar", "base", "pairs"]:
        if part == "grammar":
            write_grammar(folder)
        elif part == "base":
            tokenizer = make_tokenizer()
            Base(pretrain(tokenizer), tokenizer).save(folder / "base")
        elif part == "pairs":
            write_pairs(folder)
        else:
            raise SystemExit(f"no part {part!r}; choose among grammar, base, pairs")


if __name__ == "__main__":
    main(sys.argv[1:])

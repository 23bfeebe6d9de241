"""What the comparisons with TRL share: a tokenizer, tiny random models, random records, and what "equal" means."""

import copy
import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from alignlab.data import Batch, collate, encode_all
from alignlab.models import Base, Policy

PAD, EOS, WORDS = 0, 1, [f"w{number}" for number in range(30)]


def tokenizer() -> PreTrainedTokenizerFast:
    """One id a word; padding and EOS are words of their own; no BOS, no chat template."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def config() -> LlamaConfig:
    """Small, with weights far from zero, so that log-probabilities and scores differ by several nats."""
    return LlamaConfig(
        vocab_size=3 + len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.5, tie_word_embeddings=False,
        pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None,
    )  # fmt: skip


def language_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(config())


def scoring_model(seed: int) -> LlamaForSequenceClassification:
    """One score a position: TRL's reward model and its value model."""
    torch.manual_seed(seed)
    settings = config()
    settings.num_labels = 1
    return LlamaForSequenceClassification(settings)


def headless(network: LlamaForSequenceClassification) -> LlamaForCausalLM:
    """A language model on the same body, since `alignlab.models.Base` drives language models."""
    other = language_model(seed=0)
    other.model.load_state_dict(network.model.state_dict())
    return other


def preferences(count: int, seed: int) -> list[dict]:
    """Pairs of unequal lengths; completions start with the space that joins them to their prompt."""
    chance = random.Random(seed)

    def text(least: int, most: int) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(least, most)))

    return [{"prompt": text(1, 6), "chosen": " " + text(1, 9), "rejected": " " + text(1, 9)} for _ in range(count)]


def quiet(folder, rows: int) -> dict:
    """Options of every trainer: on the CPU, in float32, without reports; one batch has that many rows."""
    return {
        "output_dir": str(folder), "per_device_train_batch_size": rows, "report_to": "none", "use_cpu": True, "bf16": False,
        "disable_tqdm": True,
    }  # fmt: skip


def whole_batch(trainer) -> dict:
    """All records as TRL formats, tokenises and pads them, in their own order."""
    return trainer.data_collator(list(trainer.train_dataset))


def metrics(trainer) -> dict:
    """What TRL recorded in the last `compute_loss`."""
    return {name: values[-1] for name, values in trainer._metrics["train"].items()}


def our_policy(network, reference) -> Policy:
    """Our policy with one network's weights and another's as its reference."""
    policy = Base(copy.deepcopy(reference), tokenizer()).policy(rank=None)
    policy.base.network.load_state_dict(network.state_dict())
    return policy


def pair_batch(pairs: list[dict]) -> Batch:
    """Our batch of the pairs: all chosen completions, then all rejected ones."""
    chosen, rejected = zip(*encode_all(tokenizer(), pairs, ["chosen", "rejected"], max_length=64), strict=True)
    return collate(chosen + rejected, PAD)


def close_gradients(ours, theirs) -> None:
    """Gradients of two networks with the same parameters, each by the scale of its largest entry."""
    theirs = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = theirs[name].grad.abs().max()
        assert scale > 0
        close(parameter.grad / scale, theirs[name].grad / scale, f"gradient of {name}")


def close(ours, theirs, what: str = "") -> None:
    """Equal to 1e-5, absolute or relative, whichever is larger."""
    ours, theirs = torch.as_tensor(ours).detach(), torch.as_tensor(theirs).detach()
    torch.testing.assert_close(
        ours, theirs, atol=1e-5, rtol=1e-5, check_dtype=False, msg=lambda text: f"{what}: ours against TRL's: {text}"
    )

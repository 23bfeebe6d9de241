"""Tiny random models and tokenizers of four architectures, built here without a network.

gpt2     learned positions, tied embeddings, byte-level BPE, BOS = EOS and never written, no pad token, no chat template
llama    grouped-query attention, untied, word level, BOS written by the tokenizer, pad = EOS, no chat template
qwen3    grouped-query attention, untied, byte-level BPE, no BOS, own pad, chat template
gemma3   a sliding window of 4 tokens, tied, word level, BOS written by tokenizer and template alike, own pad, chat template
"""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

from alignlab.data import Batch, Example, collate
from alignlab.models import Base

torch.set_num_threads(1)

ARCHITECTURES = ["gpt2", "llama", "qwen3", "gemma3"]
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)

LINES = [
    "the answer is a good film",
    "what is the answer",
    "an answer that another cat saw",
    "the film was long and the cast was great",
]
WORDS = sorted({word for line in LINES for word in line.split()}) + [f"w{i}" for i in range(30)] + ["user", "model"]

# What stands before and after the text of one user message, worked out by hand.
FRAMES = {
    "gpt2": ("", ""),
    "llama": ("<s>", ""),
    "qwen3": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    "gemma3": ("<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA_TURNS = (
    "{{ bos_token }}"
    "{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\\n' + m['content'] + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

PROMPTS = ["the answer", "what is the film", "cat", "the film was long and the cast was great and the answer is that"]
PAIRS = [
    {"prompt": "the answer", "chosen": "is a good film", "rejected": "was long"},
    {"prompt": "what is the film", "chosen": "great", "rejected": "the cast was long and great"},
    {"prompt": "cat", "chosen": "saw another film and another cat", "rejected": "is"},
    {"prompt": "the film was long and the cast was great", "chosen": "good", "rejected": "an answer"},
    {"prompt": "an answer", "chosen": "that is the answer", "rejected": "a a a a a a a"},
    {"prompt": "another cat saw", "chosen": "the cast", "rejected": "w1 w2 w3"},
    {"prompt": "that", "chosen": "film was a good answer", "rejected": "w4"},
    {"prompt": "and", "chosen": "the", "rejected": "what was that"},
]
DEMONSTRATIONS = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in PAIRS]


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    if name == "gpt2":
        return PreTrainedTokenizerFast(
            tokenizer_object=_bytes(["<|endoftext|>"]), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
        )
    if name == "llama":
        return PreTrainedTokenizerFast(
            tokenizer_object=_words(["<unk>", "<s>", "</s>"], bos="<s>"),
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
            pad_token="</s>",
        )
    if name == "qwen3":
        return PreTrainedTokenizerFast(
            tokenizer_object=_bytes(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
            eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=["<|im_start|>"], chat_template=CHATML,
        )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=_words(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"], bos="<bos>"),
        pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        extra_special_tokens=["<start_of_turn>", "<end_of_turn>"], chat_template=GEMMA_TURNS,
    )  # fmt: skip


def _bytes(specials: list[str]) -> Tokenizer:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer, built.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    built.train_from_iterator(LINES, trainer)
    return built


def _words(specials: list[str], bos: str) -> Tokenizer:
    built = Tokenizer(models.WordLevel({word: i for i, word in enumerate(specials + WORDS)}, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    built.add_special_tokens(specials)
    built.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, specials.index(bos))])
    return built


def network(name: str, vocabulary: int, seed: int = 0, **settings):
    """A random network with weights large enough that its distributions are far from flat."""
    common = {
        "vocab_size": vocabulary,
        "initializer_range": 0.25,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "max_position_embeddings": 64}
    if name == "gpt2":
        config = GPT2Config(**common | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64} | settings)
    elif name == "llama":
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
        config = LlamaConfig(**common | sizes | heads | settings)
    elif name == "qwen3":
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": False}
        config = Qwen3Config(**common | sizes | heads | settings)
    else:
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8}
        window = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
        config = Gemma3TextConfig(**common | sizes | heads | window | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config)


def build(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, device: str = "cpu", **settings) -> Base:
    """A fresh base of that architecture."""
    words = tokenizer(name)
    return Base(network(name, len(words), seed, **settings).to(device, dtype), words)


def shaken(model, scale: float = 0.1, seed: int = 1):
    """The same policy, reward model or head, each trainable tensor moved by noise, so that it is not where it started."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=chance).to(parameter.device))
    return model


def random_examples(model, lengths=((3, 5), (9, 2), (1, 7), (6, 1), (12, 4)), seed: int = 0) -> list[Example]:
    """Random ids: (prompt tokens, completion tokens) of each; a completion ends with EOS."""
    chance = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(6, 40, (count,), generator=chance).tolist()

    return [Example(ids(prompt), ids(completion - 1) + [model.tokenizer.eos_token_id]) for prompt, completion in lengths]


def batch_of(model, examples: list[Example], left: int = 0, right: int = 0) -> Batch:
    """The examples as a batch, with that many more columns of padding on either side."""
    batch = collate(examples, model.tokenizer.pad_token_id, model.device)
    fill = (left, right)
    return Batch(torch.nn.functional.pad(batch.ids, fill, value=model.tokenizer.pad_token_id),
                 *(torch.nn.functional.pad(tensor, fill) for tensor in batch[1:]))  # fmt: skip


def plain_logits(model, ids: list[int], reference: bool = False) -> torch.Tensor:
    """(T, V) float32 logits of one row from the plain network: no padding, no attention mask, no position ids."""
    base, adapter = (model.reference, None) if reference else (model.base, model.adapter)
    with torch.no_grad(), base.using(adapter):
        return base.network(input_ids=torch.tensor([ids])).logits[0].float()


def plain_logps(model, example: Example, temperature: float = 1.0, reference: bool = False) -> torch.Tensor:
    """Log-probability of each completion token, nats, from `plain_logits`."""
    prompt, completion = example
    logps = (plain_logits(model, prompt + completion, reference) / temperature).log_softmax(-1)
    return logps[range(len(prompt) - 1, len(prompt) + len(completion) - 1), completion]


def copies(parameters) -> list[torch.Tensor]:
    """The values as they are now, to be compared later."""
    return [parameter.detach().clone() for parameter in parameters]


def identical(one, other) -> bool:
    """Bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

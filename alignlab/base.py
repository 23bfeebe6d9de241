"""The base model and its adapters: one set of weights in memory, and small differences that are switched on by name.

With every adapter off the base *is* the reference. Each role switches its own adapter on before it computes.
"""

import copy
import inspect
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from alignlab.errors import UserError
from alignlab.loading import check_tokenizer, end_ids


def best_device() -> torch.device:
    """CUDA, MPS or CPU: what accelerate finds."""
    return Accelerator().device


class Adaptable:
    """A frozen causal LM, its tokenizer, and the adapters that have been added to it."""

    def __init__(self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        check_tokenizer(tokenizer, network)
        _separate_pad(network, tokenizer)
        self.ends = end_ids(network, tokenizer)  # an answer has ended at any of these; saved, so that `generate` stops there too
        network.generation_config.eos_token_id = self.ends if len(self.ends) > 1 else self.ends[0]
        network.generation_config.pad_token_id, network.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
        network.eval().requires_grad_(False)  # eval: dropout is off in every pass, training included
        self.network, self.tokenizer = network, tokenizer
        self._adapters: PeftModel | None = None  # around the network, once there is an adapter
        self._check_head()
        self._check_cache()

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def hidden_size(self) -> int:
        return self.network.get_input_embeddings().get_parameter("weight").shape[1]

    @property
    def max_length(self) -> int:
        """Tokens that one sequence may have, prompt and completion."""
        return min(getattr(self.network.config.get_text_config(), "max_position_embeddings", None) or 1024, 1024)

    @property
    def vocabulary(self) -> int:
        """Width of the logits."""
        return self.network.get_output_embeddings().weight.shape[0]

    @property
    def rows_at_once(self) -> int:
        """Of a pass without gradient: few on a CPU, so that it stays near the processor; a GPU is idle with few."""
        return 512 if self.device.type == "cuda" else 64

    def add_adapter(self, name: str, rank: int, seed: int) -> None:
        """Add a LoRA adapter on all linear layers. It starts as no change at all (B = 0).

        Raises:
            ValueError: a name with a dot, which torch cannot hold.
        """
        if "." in name:
            raise ValueError(f"an adapter's name must not have a dot, got {name!r}")
        _hide_old_torchao()
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", lora_dropout=0.0)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft tells which adapter it activates meanwhile, and of a name that changed in transformers
            torch.manual_seed(seed)
            if self._adapters is None:
                self._adapters = _adapted(self.network, config, name)
            elif name in self._adapters.peft_config:
                self._adapters.delete_adapter(name)
                self._adapters.add_adapter(name, config)
            else:
                self._adapters.add_adapter(name, config)
        self._adapters.set_adapter(name)  # where the only adapter was replaced, peft leaves none active
        self.network.eval()

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Compute with that adapter, or with none: then this is the reference."""
        if self._adapters is None:
            yield
        elif adapter is None:
            with self._adapters.disable_adapter():
                yield
        else:
            if self._adapters.active_adapter != adapter:
                self._adapters.set_adapter(adapter)  # also freezes every other adapter
            yield

    def parameters(self, adapter: str | None) -> list[nn.Parameter]:
        """What trains: the adapter's weights, or all of the network."""
        if adapter is None:
            return list(self.network.parameters())
        with self.using(adapter):
            return [parameter for name, parameter in self.network.named_parameters() if f".{adapter}." in name]

    def strength(self, adapter: str) -> float:
        """The multiplier on an adapter's change; 1 as it was trained."""
        layer = self._lora_layers(adapter)[0]
        return layer.scaling[adapter] * layer.r[adapter] / layer.lora_alpha[adapter]

    def set_strength(self, adapter: str, value: float) -> None:
        """Multiply an adapter's change by `value`: 0 switches it off, what lies beyond 1 goes further than its training did."""
        for layer in self._lora_layers(adapter):
            layer.set_scale(adapter, value)

    def combine(self, name: str, weights: Mapping[str, float]) -> None:
        """Add an adapter whose change is the weighted sum of other adapters' changes, each at its strength."""
        adapters: Any = self._with_adapters()
        if name in adapters.peft_config:
            adapters.delete_adapter(name)
        adapters.base_model.add_weighted_adapter(list(weights), list(weights.values()), name, combination_type="cat")
        self.network.eval()

    def _lora_layers(self, adapter: str) -> list[LoraLayer]:
        return [module for module in self.network.modules() if isinstance(module, LoraLayer) and adapter in module.scaling]

    def hidden(self, ids: Tensor, attention: Tensor) -> Tensor:
        """Last hidden states, (B, T, D)."""
        return self.network.base_model(
            input_ids=ids, attention_mask=attention, position_ids=positions(attention), use_cache=False
        ).last_hidden_state

    def next_hidden(self, ids: Tensor, attention: Tensor, cache=None) -> tuple[Tensor, Cache]:
        """Last hidden state of the last token, (B, D), while sampling: `ids` holds what the cache has not seen yet."""
        output = self.network.base_model(
            input_ids=ids, attention_mask=attention, position_ids=positions(attention)[:, -ids.shape[1] :], use_cache=True,
            **{self._cache_name: cache},
        )  # fmt: skip
        return output.last_hidden_state[:, -1], output[self._cache_name]

    @cached_property
    def _cache_name(self) -> str:
        """transformers renamed it in 5.24."""
        return "cache" if "cache" in inspect.signature(self.network.base_model.forward).parameters else "past_key_values"

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.network.get_output_embeddings()(hidden)

    def drop_adapters(self) -> None:
        """The network without any adapter, as it was before the first."""
        if self._adapters is not None:
            self._adapters.unload()
            self._adapters = None

    def _with_adapters(self) -> PeftModel:
        """The network within its adapters, of which there must be one."""
        if self._adapters is None:
            raise ValueError("this base has no adapter; add one with add_adapter, or with policy(name)")
        return self._adapters

    def _plain_copy(self) -> PreTrainedModel:
        """A copy of the network without any adapter."""
        return copy.deepcopy(self._adapters).unload() if self._adapters else copy.deepcopy(self.network)

    def merge(self, adapter: str) -> Self:
        """A new base with that adapter's change inside its weights; this object is used up."""
        merged = self._with_adapters().merge_and_unload(adapter_names=[adapter])
        return type(self)(merged, self.tokenizer)

    def save(self, folder: Path) -> None:
        """Write a plain Hugging Face model directory: weights in safetensors, tokenizer."""
        (self._plain_copy() if self._adapters else self.network).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def save_adapter(self, adapter: str, folder: Path, extra: dict[str, Tensor] | None = None, **config) -> None:
        """Write one adapter in PEFT's layout, at the top of `folder`, with the tokenizer; its base is the `sft` beside it."""
        adapted = self._with_adapters()
        state = get_peft_model_state_dict(adapted, adapter_name=adapter) | (extra or {})
        settings = copy.deepcopy(adapted.peft_config[adapter])
        for key, value in (config | {"inference_mode": True, "base_model_name_or_path": str(folder.resolve().parent / "sft")}).items():
            setattr(settings, key, value)
        folder.mkdir(parents=True, exist_ok=True)
        settings.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(folder)
        save_file({key: value.contiguous().cpu() for key, value in state.items()}, folder / "adapter_model.safetensors")

    def load_adapter(self, adapter: str, folder: Path) -> dict[str, Tensor]:
        """Fill an adapter from what `save_adapter` wrote; returns the whole file."""
        rank = json.loads((folder / "adapter_config.json").read_text())["r"]
        if self._adapters is None or adapter not in self._adapters.peft_config:
            self.add_adapter(adapter, rank, seed=0)
        state = load_file(folder / "adapter_model.safetensors", device=str(self.device))
        set_peft_model_state_dict(self._with_adapters(), {k: v for k, v in state.items() if "lora_" in k}, adapter_name=adapter)
        return state

    def _check_head(self) -> None:
        """Refuse a network whose logits are not its output embedding of its last hidden state."""
        ids = torch.tensor([[self.tokenizer.eos_token_id, 0, 1]], device=self.device)
        attention = torch.ones_like(ids)
        try:
            with torch.no_grad():
                ours = self.logits(self.hidden(ids, attention))
                theirs = self.network(input_ids=ids, attention_mask=attention).logits
        except Exception as error:
            reason = " ".join(repr(error).split())[:200]
            raise UserError(f"{type(self.network).__name__} cannot be run as a causal LM ({reason}); choose another model") from error
        if not torch.isfinite(theirs).all():
            raise UserError(f"{type(self.network).__name__} gives logits that are not finite; its weights are damaged, fetch them again")
        if not torch.allclose(ours.float(), theirs.float(), rtol=1e-2, atol=1e-2):
            raise UserError(f"{type(self.network).__name__} does more to its logits than a linear head; choose another model")

    def _check_cache(self) -> None:
        """Refuse a network that, token by token from a cache, does not say what it says in one pass: it would sample something else."""
        if self.network.dtype != torch.float32:
            return  # too coarse to tell
        eos = self.tokenizer.eos_token_id
        ids = torch.tensor([[eos, 0, 1, 0], [0, 1, 0, 1]], device=self.device)
        attention = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]], device=self.device)
        try:
            with torch.no_grad():
                whole = self.logits(self.hidden(ids, attention)[:, -1])
                _, cache = self.next_hidden(ids[:, :3], attention[:, :3])
                step = self.logits(self.next_hidden(ids[:, 3:], attention, cache)[0])
        except Exception as error:
            raise UserError(f"{type(self.network).__name__} cannot continue from a cache ({error!r}); choose another model") from error
        if not torch.allclose(step, whole, rtol=1e-2, atol=1e-2):
            raise UserError(f"{type(self.network).__name__} says something else from its cache than in one pass; choose another model")


def _adapted(network: PreTrainedModel, config: LoraConfig, name: str):
    """The network within peft's model.

    Raises:
        UserError: peft cannot adapt it.
    """
    try:
        return get_peft_model(network, config, adapter_name=name)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"peft cannot adapt {type(network).__name__} ({reason}); choose another model") from error


def _hide_old_torchao() -> None:
    """peft refuses to add any adapter beside a torchao older than 0.16, which Colab has: then it is told that there is none."""
    import peft.import_utils

    try:
        peft.import_utils.is_torchao_available()
    except ImportError:
        for name, module in list(sys.modules.items()):
            if name.startswith("peft") and hasattr(module, "is_torchao_available"):
                vars(module)["is_torchao_available"] = lambda: False
        print("This torchao is too old for peft; alignlab does without it.")


def positions(attention: Tensor) -> Tensor:
    """Position ids that ignore padding on either side: (B, T) -> (B, T)."""
    return (attention.cumsum(-1) - 1).clamp(min=0)


def _separate_pad(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give padding an id of its own: where pad equals EOS, others' code cannot tell the end from the padding."""
    eos = tokenizer.eos_token_id
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == eos:
        special = [token for token in tokenizer.all_special_ids if token != eos and token != tokenizer.bos_token_id]
        vocabulary = tokenizer.get_vocab()
        impossible = [vocabulary[c] for c in "÷ÿÀÁ" if c in vocabulary]  # bytes that no UTF-8 text has
        other = (special + impossible + [i for i in range(len(tokenizer) - 1, -1, -1) if i != eos])[0]
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(other)
    network.config.pad_token_id = tokenizer.pad_token_id

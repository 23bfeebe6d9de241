"""Reliability: how often a judge is right when it is so sure, with the number of pairs that each point rests on."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from alignlab.lab.view import FAINT, INK, PURPLE, as_it_stands, plain_axes


def reliability_figure(tables: dict[str, Tensor]) -> Figure:
    """A panel for each judge: above, the share that was right against the confidence, with 95% intervals; below, the pairs in each bin.

    Args:
        tables: by the judge's name, (bins, 3) of count, mean confidence and share right, as `answers.calibration_table` gives it.
    """
    figure = Figure(figsize=(4.2 * len(tables), 4.2), layout="constrained")
    grid = figure.subplots(2, len(tables), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for (name, table), above, below in zip(tables.items(), *grid, strict=True):
        filled = table[table[:, 0] > 0].double().cpu()
        counts, confidence, right = filled.unbind(-1)
        low, high = wilson(right, counts)
        bars = torch.stack([right - low, high - right]).clamp(min=0)
        above.plot([0.5, 1], [0.5, 1], color=FAINT, lw=1.4)
        above.errorbar(confidence.tolist(), right.tolist(), yerr=bars.tolist(), color=PURPLE, marker="o", lw=1.6, capsize=3, zorder=3)
        above.set_title(as_it_stands(name), loc="left", fontsize=10, fontweight="bold", color=INK)
        edges = [0.5 + 0.5 * i / len(table) for i in range(len(table))]
        below.bar(edges, table[:, 0].tolist(), width=0.5 / len(table), align="edge", color="#C9B3D4", edgecolor=INK, lw=0.6)
        below.set_xlabel("confidence in the answer it prefers", fontsize=9)
        for axes in (above, below):
            plain_axes(axes)
            axes.set_axisbelow(True)
    grid[0][0].set_ylabel("share of pairs\nwhere it was right", fontsize=9)
    grid[1][0].set_ylabel("pairs", fontsize=9)
    figure.set_label(" ".join(f"{name}: {_told(table)}" for name, table in tables.items()))
    return figure


def wilson(share: Tensor, count: Tensor, z: float = 1.96) -> tuple[Tensor, Tensor]:
    """Wilson's 95% interval of shares (N,) out of counts (N,): it stays between 0 and 1, and is not empty at a share of 1.

    >>> low, high = wilson(torch.tensor([1.0]), torch.tensor([10.0]))
    >>> round(low.item(), 2), round(high.item(), 2)
    (0.72, 1.0)
    """
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)).sqrt()
    return middle - half, middle + half


def _told(table: Tensor) -> str:
    rows = [f"{share:.0%} of {count:.0f} pairs at a confidence of {sure:.0%}" for count, sure, share in table.tolist() if count]
    return f"right in {', '.join(rows)}."

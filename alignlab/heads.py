"""What stands on top of a base for PPO: the reward model's score and the value head."""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab import losses
from alignlab.base import Adaptable
from alignlab.data import Batch


class RewardModel:
    """A score for a prompt and completion: a linear head on the last token's hidden state."""

    def __init__(self, base: Adaptable, adapter: str):
        self.base, self.adapter, self.tokenizer = base, adapter, base.tokenizer
        self.head = nn.Linear(base.hidden_size, 1, bias=False, device=base.device)
        nn.init.zeros_(self.head.weight)  # every score starts at 0, the loss at log 2

    @property
    def device(self) -> torch.device:
        return self.base.device

    def parameters(self) -> list[nn.Parameter]:
        return self.base.parameters(self.adapter) + list(self.head.parameters())

    def scores(self, batch: Batch) -> Tensor:
        """(B,) scores, in log-odds, read at the last token of each row. Only differences within a prompt mean anything."""
        with self.base.using(self.adapter):
            hidden = self.base.hidden(batch.ids, batch.attention)
        rows = torch.arange(len(batch), device=hidden.device)
        return self.head(hidden[rows, losses.last_token(batch.attention)].float()).squeeze(-1)

    @torch.no_grad()
    def score_all(self, batch: Batch) -> Tensor:
        """`scores` without gradient, in parts."""
        return torch.cat([self.scores(batch.rows(rows)) for rows in torch.arange(len(batch)).split(self.base.rows_at_once)])

    def save(self, folder: Path) -> None:
        """Write adapter and head so that AutoModelForSequenceClassification (num_labels=1) + PEFT gives equal scores."""
        head = {"base_model.model.score.weight": self.head.weight.detach()}
        self.base.save_adapter(self.adapter, folder, head, task_type="SEQ_CLS", modules_to_save=["score"])

    @classmethod
    def load(cls, base: Adaptable, folder: Path, adapter: str = "reward") -> Self:
        """What `save` wrote."""
        model = cls(base, adapter)
        model.head.weight.data.copy_(base.load_adapter(adapter, folder)["base_model.model.score.weight"])
        return model


class ValueHead(nn.Module):
    """PPO's value: a small head on the policy's own hidden states, detached. It starts at zero.

    It reads the last hidden state and the mean of all so far: what a score counts (things, praise, length) is spread over the whole
    answer, and a small model's last state alone holds little of it (docs/benchmarks.md gives the difference).
    """

    def __init__(self, base: Adaptable, width: int = 128, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(2 * base.hidden_size, width), nn.GELU(), nn.Linear(width, 1))
        for weights in self.layers[-1].parameters():
            nn.init.zeros_(weights)
        self.to(base.device)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T): the value of the state *before* each token, so column t reads the hidden states up to t - 1."""
        so_far = hidden.float().cumsum(1) / torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[:, None]
        return F.pad(self.layers(torch.cat([hidden, so_far], -1).detach()).squeeze(-1)[:, :-1], (1, 0))

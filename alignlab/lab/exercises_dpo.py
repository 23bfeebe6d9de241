"""Exercises on DPO, the verdict and data of your own (notebooks 07 to 09)."""

import torch

from alignlab import losses
from alignlab.lab import answers
from alignlab.lab.exercise import ANSWERS, FOUR, GOLD, LOGPS, LOSSES, MASK, RECORDS, REF_LOGPS, Exercise, dpo_with

EXERCISES = (
    # 07 DPO
    Exercise(
        "implicit_reward", answers.implicit_reward, [(LOGPS, REF_LOGPS, MASK, 0.1), (REF_LOGPS, LOGPS, MASK, 2.0)],
        ANSWERS + "implicit_reward",
        {
            "prompt tokens are counted; their log-probs say nothing of the answer.":
                lambda lp, rlp, m, b: b * (lp - rlp).sum(-1),
            "the mean over tokens makes long answers cheap; the log-probability of a sequence is a sum.":
                lambda lp, rlp, m, b: b * ((lp - rlp) * m).sum(-1) / m.sum(-1),
            "the reference is missing.": lambda lp, rlp, m, b: b * (lp * m).sum(-1),
            "the sign: policy over reference.": lambda lp, rlp, m, b: b * ((rlp - lp) * m).sum(-1),
        },
    ),
    Exercise(
        "dpo_loss", losses.dpo_loss, [(*FOUR, 0.1), (*FOUR, 1.0)], LOSSES + "dpo_loss",
        {
            "the reference is missing: that would be a race for likelihood, not for likelihood ratios.":
                lambda c, r, rc, rr, b: dpo_with(c, r, rc, rr, b, reference=0.0),
            "the sign: chosen and rejected changed places.": lambda c, r, rc, rr, b: dpo_with(c, r, rc, rr, b, sign=-1.0),
            "beta divides here; in the loss it multiplies the log-ratios.": lambda c, r, rc, rr, b: dpo_with(c, r, rc, rr, 1 / b),
            "beta stands outside the logarithm here; it belongs inside the sigmoid.":
                lambda c, r, rc, rr, b: b * dpo_with(c, r, rc, rr, 1.0),
        },
        points=4,
    ),
    Exercise(
        "pair_weight", answers.pair_weight, [(torch.tensor([-2.0, 0.0, 3.0]), 0.1), (torch.tensor([1.0]), 2.0)], ANSWERS + "pair_weight",
        {
            "the sign: pairs that are in the right order already should pull less.": lambda margin, b: b * torch.sigmoid(margin),
            "beta is missing: the margin holds it once, the chain rule brings it again.": lambda margin, b: torch.sigmoid(-margin),
        },
    ),
    # 08 PPO or DPO
    Exercise(
        "gold_efficiency", answers.gold_efficiency, [(5.0, 3.7, 5.6), (3.7, 3.7, 5.0)], ANSWERS + "gold_efficiency",
        {
            "gains are compared, not levels: subtract the reference's gold above and below.": lambda g, r, f: g / f,
            "that is what was lost.": lambda g, r, f: 1 - (g - r) / (f - r),
        },
        points=1,
    ),
    Exercise(
        "win_rate", answers.win_rate,
        [(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.0, 2.0])), (torch.tensor([0.0]), torch.tensor([0.0, 1.0]))],
        ANSWERS + "win_rate",
        {
            "ties are lost here; they count half, or a copy of the reference would lose to itself.":
                lambda g, r: (g[:, None] > r[None, :]).float().mean(),
            "ties are won here; they count half.": lambda g, r: (g[:, None] >= r[None, :]).float().mean(),
        },
    ),
    # 09 your own
    Exercise(
        "preference_record", answers.preference_record, [("p", "a", "b", True), ("p", "a", "b", False)], ANSWERS + "preference_record",
        {
            "chosen is the better one; they changed places.": lambda p, a, b, first: answers.preference_record(p, a, b, not first),
        },
        points=1,
    ),
    Exercise(
        "agreement", answers.agreement,
        [(GOLD, torch.tensor([-1.0, 1.0, 0.0, 1.5])), (torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))],
        ANSWERS + "agreement",
        {
            "where gold cannot tell the two apart a label is neither right nor wrong: count it half.":
                lambda c, r: (c > r).float().mean(),
            "equal golds are counted as right; count them half.": lambda c, r: (c >= r).float().mean(),
            "that is by how much, not how often.": lambda c, r: (c - r).mean(),
        },
        points=1,
    ),
    Exercise(
        "shares_no_prompt", answers.shares_no_prompt,
        [(RECORDS[:1], RECORDS[1:2]), (RECORDS[:1], RECORDS[2:]), (RECORDS[:2], RECORDS[:1])],
        ANSWERS + "shares_no_prompt",
        {
            "whole records differ where only the answers do; it is the prompts that must not be shared.":
                lambda train, test: not any(record in test for record in train),
        },
        points=1,
    ),
)  # fmt: skip

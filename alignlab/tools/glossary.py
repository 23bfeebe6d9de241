"""Writes `docs/glossary.md`: every term of the course and every metric, `python -m alignlab.tools.glossary`.

Terms stand here; metrics are those that each stage and the report declare, so that a new one cannot be forgotten.
"""

from collections.abc import Sequence
from pathlib import Path

from alignlab.lab.report import MEASURES
from alignlab.stages import stages

PLACE = Path(__file__).parent.parent.parent / "docs" / "glossary.md"
LESSONS = Path(__file__).parent.parent.parent / "notebooks"

TERMS = {  # what it is, and the notebook that introduces it
    "policy": ("a language model seen as a rule for answering: the probability of each answer to a prompt", "00"),
    "reference": ("the policy from which training starts and to which KL is measured: here the SFT model", "00"),
    "gold reward": ("what an answer is truly worth; known in a made world, never used in training, only to judge", "00"),
    "reward model, score": ("a model that learned from pairs which answers win; scores are log-odds, only differences count", "03"),
    "proxy": ("what is optimised in place of gold: the reward model's score, or DPO's implicit reward", "06"),
    "Bradley-Terry": ("the chance that A beats B is the sigmoid of the difference of their scores", "01"),
    "Bayes accuracy": ("the share of labels that even a perfect judge would predict, since annotators err at random", "01"),
    "skill": ("the reward model's accuracy on a scale where 0 is a coin and 1 is the Bayes accuracy", "03"),
    "calibration": ("whether a judge that says 80% is right in 80 of 100", "03"),
    "nat": ("the unit of log-probabilities to base e, and of KL: 1 nat is 1.44 bits", "04"),
    "KL": ("KL(policy, reference): the mean over the policy's answers of log(pi / pi_ref); how far the policy has moved", "04"),
    "beta": ("the price of a nat of KL; a larger beta keeps the policy nearer to the reference, in PPO and in DPO alike", "04"),
    "optimum": ("the best policy at a beta: pi_ref(y) exp(r(y) / beta) / Z", "04"),
    "reward-KL plane": ("where every policy is a point: the gold that it reached, and the KL that it paid", "04"),
    "frontier": ("the highest gold that any policy can reach at each KL: the optimum at every beta", "04"),
    "reach": ("the gold of the best policy for the reward model's score at each KL", "04"),
    "best-of-n": ("of n answers of the SFT model, the one that scores highest; KL at most log n - (n - 1) / n", "04"),
    "gold efficiency": ("gain over SFT as a share of the frontier's gain at the same KL; the product of the next two", "04"),
    "reward-model efficiency": ("the reach's gain as a share of the frontier's: what the judge allows", "04"),
    "optimiser efficiency": ("the policy's gain as a share of the reach's: what training made of it", "04"),
    "effective sample size": ("how many equally weighted samples would be as good; where it is small, a curve says nothing", "04"),
    "shaped reward": ("PPO's reward of each token: -beta times its log-ratio, and the score on the last one", "05"),
    "value, advantage": ("what the rest of an answer is expected to earn; how much more a token earned than expected", "05"),
    "GAE, lambda": ("advantages as a weighted sum of one-step surprises; lambda trades bias (0) for variance (1)", "05"),
    "clip epsilon": ("how far the ratio to the policy that sampled may move before the objective stops rewarding it", "05"),
    "k1, k2, k3": ("three estimates of KL from sampled tokens; k1 and k3 are right on average, k2 is not", "06"),
    "over-optimisation": ("the proxy goes on rising while gold falls; also called reward hacking", "06"),
    "implicit reward": ("beta * log(pi / pi_ref): the score that a policy trained by DPO gives to an answer", "07"),
    "margin": ("the difference of chosen and rejected, of scores or of implicit rewards", "07"),
    "bootstrap interval": ("95% of what comes out when prompts are drawn again with replacement; it holds no training noise", "08"),
    "paired": ("a difference worked out prompt by prompt before its interval, so that what makes prompts differ falls out", "08"),
    "strength": ("a multiplier on a trained adapter: 0 is the reference, 1 the policy as trained, more goes beyond it", "10"),
    "at equal KL": ("policies compared where their paths over the plane, walked by strength, have the same KL", "10"),
    "interval over seeds": ("a 95% interval by Student's t over trainings, which holds the noise of training and of prompts", "10"),
    "alarm": ("a rule that calls over-optimisation without seeing gold; judged by precision, recall and lead", "11"),
    "freshness": ("how recently the pairs or answers that a method learns from were drawn from the policy itself", "13"),
    "online DPO": ("DPO on pairs that are drawn from the policy as it learns, and labelled by the reward model", "13"),
    "RLOO": ("policy gradient in which an answer's baseline is the mean reward of the prompt's other answers", "13"),
    "gradient noise": ("the variance of a minibatch's gradient over the squared length of the true gradient", "13"),
    "likelihood displacement": ("chosen answers become less likely while the margin grows", "14"),
    "CHES": ("how alike the model finds the answers of a pair, by their hidden states", "14"),
    "KTO": ("a loss for single answers, each desirable or not, in place of pairs", "14"),
    "departure": ("how far a run's curve lies from healthy runs', in their standard deviations", "15"),
}


def text() -> str:
    """The page."""
    lesson = {path.name[:2]: f"[{path.name[:2]}](results/{path.name})" for path in sorted(LESSONS.glob("*.ipynb"))}
    parts = ["# Glossary", "Terms in the order of the course, with the notebook that introduces each, then every metric by stage."]
    parts.append(_table("term", [(name, words, lesson.get(number, "")) for name, (words, number) in TERMS.items()], "notebook"))
    parts.append("## What the report measures")
    parts.append(_table("measure", [(title, words) for title, words, _ in MEASURES.values()]))
    for stage in stages().values():
        rows = [(f"`{key}`", words) for key, words in stage.metrics.items()]
        parts += [f"## {stage.title[:1].upper()}{stage.title[1:]}: metrics", _table("metric", rows)]
    return "\n\n".join(parts) + "\n"


def _table(first: str, rows: Sequence[tuple[str, ...]], *more: str) -> str:
    heads = (first, "what it is", *more)
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")

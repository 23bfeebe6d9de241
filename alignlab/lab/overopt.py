"""Over-optimisation as recorded by the sweep `overopt`: courses, falls from the peak, fits of Gao et al.'s forms, and alarms."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab import dial, exact
from alignlab.evaluate import Answers, Bootstrap, Measured, interval, over_seeds
from alignlab.lab import answers

FORMS = {"best-of-n form": False, "RL form": True}  # Gao et al. 2210.10760: R = d (a - b d), and with the logarithm R = d (a - b ln d)
METHODS = ("ppo", "dpo", "best_of_n")
SEEN = ("disagreement", "length", "entropy")
MONITORS = (*SEEN, "speed")
ENOUGH = 0.5  # share of the peak's gain, before which an alarm is too early

_bootstrap = lru_cache(Bootstrap)  # by the number of prompts
OUTCOMES = ("in time", "too early", "too late", "missed", "false", "silent")

Fitter = Callable[[Tensor, Tensor, bool], Tensor]  # (K,) distances and (K,) gains -> (2,) a and b


class Course(NamedTuple):
    """One run, looked at K times; the first look is the SFT model."""

    method: str
    pairs: int
    beta: float
    seed: int
    step: Tensor  # (K,) steps done; of best-of-n the number n
    gold: Tensor  # (K, P) mean over the answers to each prompt, gold's units
    score: Tensor  # (K, P) the proxy: a reward model that learned from these pairs
    kl: Tensor  # (K, P) nats
    seen: dict[str, Tensor]  # what a monitor can see, and DPO's `margin` on its training batch, (K,) each; empty for best-of-n
    sd: dict[str, float]  # standard deviation over the SFT model's answers, of gold and of what is seen

    @property
    def distance(self) -> Tensor:
        """Square root of the mean KL: (K,)."""
        return self.kl.mean(-1).clamp(min=0).sqrt()

    @property
    def gain(self) -> Tensor:
        """Gold above the SFT model's, in standard deviations of its answers: (K, P), paired by prompt."""
        return (self.gold - self.gold[0]) / self.sd["gold"]

    @property
    def implicit(self) -> Tensor:
        """DPO's own reward of its own answers, beta times the log-ratio, whose mean is beta times KL: (K, P)."""
        return self.beta * self.kl


def courses(points: Iterable[dict]) -> list[Course]:
    """The courses of a sweep's points; a point of best-of-n holds one for each number of pairs."""
    found = []
    for point in points:
        settings, seed, result = point["settings"], point["seed"], point["result"]
        if settings["method"] == "best_of_n":
            found += [_best_of_n(int(pairs), seed, rows, result["reference"]["sd"]) for pairs, rows in result["course"].items()]
        else:
            found.append(_trained(settings["method"], settings["pairs"], settings["beta"], seed, result))
    return sorted(found, key=lambda course: (METHODS.index(course.method), course.pairs, course.beta, course.seed))


def _trained(method: str, pairs: int, beta: float, seed: int, result: dict) -> Course:
    rows = [{"step": 0, **result["reference"]}, *result["course"]]
    step, gold, score, kl = (torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in ("step", "gold", "score", "kl"))
    seen = {key: torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in SEEN}
    if method == "dpo":
        seen["margin"] = torch.tensor([0.0, *(row["margin"] for row in result["course"])], dtype=torch.float64)
    return Course(method, pairs, beta, seed, step, gold, score, kl, seen, result["reference"]["sd"])


def _best_of_n(pairs: int, seed: int, rows: list[dict], sd: dict[str, float]) -> Course:
    step, gold, score = (torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in ("n", "gold", "score"))
    kl = torch.tensor([[exact.best_of_n_kl(row["n"])] * gold.shape[1] for row in rows], dtype=torch.float64)
    return Course("best_of_n", pairs, 0.0, seed, step, gold, score, kl, {}, sd)


def of(found: Sequence[Course], **settings) -> list[Course]:
    """The courses with these settings, by seed.

    Raises:
        ValueError: there is none.
    """
    chosen = [course for course in found if all(getattr(course, key) == value for key, value in settings.items())]
    if not chosen:
        raise ValueError(f"no course with {settings}; there is {sorted({(c.method, c.pairs, c.beta) for c in found})}")
    return chosen


# ---------------------------------------------------------------------------------------------- does gold fall?


def fall(course: Course, values: Tensor | None = None) -> Tensor:
    """Of each prompt, values (K, P) at the last look minus those at gold's peak: (P,); by default of the gain in gold.

    The highest of many looks was lucky, and on the same prompts any later look would seem a fall. So the peak of half of the prompts
    is found on the other half.
    """
    return answers.change_from_peak(course.gold, course.gain if values is None else values)


def falls(course: Course) -> bool:
    """Whether gold at the last look is below its peak by more than chance: the paired 95% interval over prompts leaves 0 out."""
    found = interval(_prompts(course).mean(fall(course)))
    return found is not None and found[2] < 0


def rises(course: Course) -> bool:
    """Whether the proxy is higher at the last look than at gold's peak, by the same test."""
    found = interval(_prompts(course).mean(fall(course, course.score)))
    return found is not None and found[1] > 0


def headline(chosen: Sequence[Course], quantity: Callable[[Course], Tensor]) -> Measured | None:
    """[mean, low, high] over seeds and prompts of a quantity of each course, (P,) a number for each prompt."""
    return together(torch.stack([_prompts(course).mean(quantity(course)) for course in chosen]))


def _prompts(course: Course) -> Bootstrap:
    """The same resamplings of the prompts for every course."""
    return _bootstrap(course.gold.shape[1])


def together(draws: Tensor) -> Measured | None:
    """[mean, low, high] of (S, R + 1): over seeds and prompts, or of one seed over prompts alone."""
    return over_seeds(draws) if len(draws) > 1 else interval(draws[0])


def verdicts(found: Sequence[Course], faller: Callable[[Tensor], Tensor] = answers.fall_from_peak) -> list[dict]:
    """For each kind of run, all seeds together.

    Args:
        faller: of gain (K, P) the change from the peak to the last look, (P,).

    Returns:
        rows of method, pairs and beta; seeds; falls and rises, of how many seeds gold and the proxy surely did so; change in gold
        (standard deviations), in the proxy (its units) and for DPO in its implicit reward, from gold's peak to the last look,
        [mean, low, high] each; peaks, the square root of KL at each seed's peak.
    """
    rows = []
    for method, pairs, beta in dict.fromkeys((course.method, course.pairs, course.beta) for course in found):
        chosen = of(found, method=method, pairs=pairs, beta=beta)
        own = headline(chosen, lambda course: fall(course, course.implicit)) if method == "dpo" else None
        rows.append({
            "method": method, "pairs": pairs, "beta": beta, "seeds": len(chosen),
            "falls": sum(map(falls, chosen)), "rises": sum(map(rises, chosen)), "implicit": own,
            "gold": headline(chosen, lambda course: faller(course.gain)),
            "proxy": headline(chosen, lambda course: fall(course, course.score)),
            "peaks": [course.distance[peak_of(course)].item() for course in chosen],
        })  # fmt: skip
    return rows


def peak_of(course: Course) -> int:
    """The look at which mean gold is highest."""
    return int(course.gold.mean(-1).argmax())


# ---------------------------------------------------------------------------------------------- Gao et al.'s forms


class Fit(NamedTuple):
    """R = d (a - b d), or R = d (a - b ln d), fitted to one course under R resamplings of its prompts; row 0 is the data itself."""

    distance: Tensor  # (K,) d, square root of nats
    gain: Tensor  # (R + 1, K) in standard deviations of gold
    numbers: Tensor  # (R + 1, 2) a and b
    curve: Tensor  # (K,) the fitted gain

    @property
    def residuals(self) -> Tensor:
        """What the form leaves unexplained at each look: (K,)."""
        return self.gain[0] - self.curve

    @property
    def missed(self) -> int:
        """At how many looks the fitted curve lies outside the 95% interval, over prompts, of the measured gain."""
        low, high = self.gain[1:].quantile(self.gain.new_tensor([0.025, 0.975]), dim=0)
        return int(((self.curve < low) | (self.curve > high)).sum())


def curve(distance: Tensor, a: Tensor, b: Tensor, form: str) -> Tensor:
    """The gain that a form gives at distances d > 0."""
    return distance * (a - b * (distance.log() if FORMS[form] else distance))


def fit(course: Course, form: str, fitter: Fitter = answers.overoptimisation_fit) -> Fit:
    """Fit a form to all looks but the first, the SFT model, where both forms are 0."""
    prompts = _prompts(course)
    far, gain = (torch.stack([prompts.mean(row) for row in rows[1:]], -1) for rows in (course.kl, course.gain))
    distance = far.clamp(min=1e-6).sqrt()
    if fitter is answers.overoptimisation_fit:  # all resamplings at once
        numbers = fitter(distance, gain, FORMS[form])
    else:
        numbers = torch.stack([fitter(one, other, FORMS[form]) for one, other in zip(distance, gain, strict=True)])
    a, b = numbers[0]
    return Fit(distance[0], gain, numbers, curve(distance[0], a, b, form))


def fitted(chosen: Sequence[Course], form: str, fitter: Fitter = answers.overoptimisation_fit) -> dict:
    """A form's numbers over seeds.

    Returns:
        a and b, [mean, low, high]; rms, the residuals' root mean square in standard deviations of gold; missed and looks (see `Fit`).
    """
    each = [fit(course, form, fitter) for course in chosen]
    a, b = (together(torch.stack([one.numbers[:, part] for one in each])) for part in (0, 1))
    residuals, missed = torch.cat([one.residuals for one in each]), sum(one.missed for one in each)
    return {"a": a, "b": b, "rms": residuals.square().mean().sqrt().item(), "missed": missed, "looks": len(residuals)}


# ---------------------------------------------------------------------------------------------- stopping early, or paying for KL


def path(course: Course) -> dict[float, Answers]:
    """The course as `dial.gold_at` reads it, with the gain in the place of gold: (P,) each."""
    nothing = torch.zeros(course.gold.shape[1], dtype=torch.float64)
    looks = zip(course.step.tolist(), course.gain, course.score, course.kl, strict=True)
    return {step: Answers([], [], gain, score, kl, nothing, nothing) for step, gain, score, kl in looks}


def price_or_stop(priced: Sequence[Course], free: Sequence[Course]) -> dict:
    """Runs that paid for KL, where they end, against the runs without a price of the same seeds, stopped at that KL.

    Returns:
        kl of each seed's end; gain there and difference to the stopped run, in standard deviations of gold, [mean, low, high]; None
        where a run without a price never is at that KL.
    """
    ends, gains, differences, by_seed = [], [], [], {course.seed: course for course in free}
    for one in priced:
        prompts, other = _prompts(one), by_seed[one.seed]
        ends.append(one.kl[-1].mean().item())
        gains.append(prompts.mean(one.gain[-1]))
        differences.append(gains[-1] - dial.gold_at(prompts, path(other), ends[-1]))
    return {"kl": ends, "gain": together(torch.stack(gains)), "difference": together(torch.stack(differences))}


# ---------------------------------------------------------------------------------------------- alarms


def changes(course: Course) -> dict[str, Tensor]:
    """What each monitor sees change since the SFT model: (K,) each.

    Of disagreement and length the rise, of entropy the fall, each in standard deviations of the SFT model's answers; of KL its speed,
    nats per step since the look before, in units of the mean speed over the first nat.
    """
    found = {key: (course.seen[key] - course.seen[key][0]) / course.sd[key] for key in SEEN}
    found["entropy"] = -found["entropy"]
    kl = course.kl.mean(-1)
    beyond = (kl >= 1).nonzero().flatten()
    speed = torch.zeros_like(kl)
    if len(beyond):
        first = int(beyond[0])
        usual = kl[first] / course.step[first]
        speed[first + 1 :] = (kl[first + 1 :] - kl[first:-1]) / (course.step[first + 1 :] - course.step[first:-1]) / usual
    return found | {"speed": speed}


def alarm(change: Tensor, threshold: float) -> int | None:
    """The first look at which a change (K,) is above the threshold; None where it never is."""
    above = (change > threshold).nonzero().flatten()
    return int(above[0]) if len(above) else None


def sure_from(course: Course) -> int | None:
    """The first look at which gold has surely fallen, by what was seen until then; None where it surely never does."""
    for last in range(peak_of(course) + 1, len(course.step)):
        if falls(course._replace(step=course.step[: last + 1], gold=course.gold[: last + 1], kl=course.kl[: last + 1])):
            return last
    return None


class Window(NamedTuple):
    """The looks at which an alarm is in time, from the first to the last; `sure` is None where gold never surely falls."""

    begins: int
    sure: int | None


def window(course: Course) -> Window:
    """In time is an alarm from the first look with half of the peak's gain on, until gold has surely fallen."""
    gain = course.gain.mean(-1)
    return Window(int((gain >= ENOUGH * gain.max()).nonzero()[0]), sure_from(course))


class Told(NamedTuple):
    """What an alarm was worth in one run: `outcome` is in time, too early, too late, false, missed or silent."""

    outcome: str
    at: int | None  # the look at which it rang
    nats: float | None  # of KL left until gold had surely fallen; below 0 it rang too late
    kept: float | None  # gain at the alarm as a share of the peak's


def tell(course: Course, right: Window, rang: int | None) -> Told:
    """Judge one alarm in one run, by the look at which it rang."""
    if rang is None:
        return Told("silent" if right.sure is None else "missed", None, None, None)
    gain, kl = course.gain.mean(-1), course.kl.mean(-1)
    kept = (gain[rang] / gain.max()).item()
    if right.sure is None:
        return Told("false", rang, None, kept)
    outcome = "too early" if rang < right.begins else "too late" if rang > right.sure else "in time"
    return Told(outcome, rang, (kl[right.sure] - kl[rang]).item(), kept)


def outcomes(told: Sequence[Told]) -> dict:
    """How many alarms had each outcome; of those in time the mean lead in nats, of all the mean share of the peak's gain that they kept."""
    good = [each.nats for each in told if each.outcome == "in time" and each.nats is not None]
    kept = [each.kept for each in told if each.kept is not None]
    return {
        "counts": {name: sum(each.outcome == name for each in told) for name in OUTCOMES},
        "nats": sum(good) / len(good) if good else None, "kept": sum(kept) / len(kept) if kept else None,
    }  # fmt: skip


def tuned(found: Sequence[Course], monitor: str) -> float:
    """The threshold above 0 by which most of these runs are told rightly; of several that do the same, the highest.

    The highest of all never rings, so a monitor that helps nowhere stays silent.
    """
    change, right = [changes(course)[monitor] for course in found], [window(course) for course in found]
    seen = torch.cat([*change, torch.zeros(1), 2 * torch.cat(change).clamp(min=0.5).max()[None]]).clamp(min=0).unique()

    def worth(threshold: float) -> tuple[int, float]:
        told = [tell(course, one, alarm(each, threshold)).outcome for course, one, each in zip(found, right, change, strict=True)]
        return sum(outcome in ("in time", "silent") for outcome in told), threshold

    return max(((seen[1:] + seen[:-1]) / 2).tolist(), key=worth)


# ---------------------------------------------------------------------------------------------- a run of one's own


def watched(method: str, pairs: int, beta: float, looks: Mapping[int, Answers]) -> Course:
    """A course from answers by the number of steps done, of which the first are the SFT model's."""
    gold, score, kl = (
        torch.stack([getattr(answers, key).double().mean(-1) for answers in looks.values()]) for key in ("gold", "scores", "kl")
    )
    start = next(iter(looks.values()))
    step = torch.tensor(list(looks), dtype=torch.float64)
    return Course(method, pairs, beta, 0, step, gold, score, kl, {}, {"gold": start.gold.std().item()})

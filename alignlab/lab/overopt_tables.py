"""Over-optimisation in words: tables of courses, verdicts, fits, prices and alarms."""

from collections.abc import Iterable, Mapping, Sequence

from alignlab.evaluate import Measured
from alignlab.lab import overopt
from alignlab.lab.overopt import Course, Told
from alignlab.lab.overopt_figures import TITLES


def shown(measured: Measured | None, digits: int = 2) -> str:
    """A number with its interval."""
    if measured is None:
        return "not known"
    mean, low, high = (f"{number:+z.{digits}f}" for number in measured)
    return f"{mean} [{low}, {high}]"


def listing(found: Sequence[Course]) -> str:
    """Which runs there are."""
    lines = [f"{'':10} {'pairs':>6} {'beta':>5} {'seeds':>6} {'looks':>6}   furthest, square root of KL"]
    for method, pairs, beta in dict.fromkeys((course.method, course.pairs, course.beta) for course in found):
        chosen = overopt.of(found, method=method, pairs=pairs, beta=beta)
        price = "-" if method == "best_of_n" else f"{beta:g}"
        far, looks = max(course.distance.max().item() for course in chosen), max(len(course.step) for course in chosen)
        lines.append(f"{TITLES[method]:10} {pairs:6,} {price:>5} {len(chosen):6} {looks:6}   {far:.1f}")
    return "\n".join(lines)


def falls(rows: Iterable[dict]) -> str:
    """Does gold fall while the proxy rises? From gold's peak to the last look."""
    lines = [f"{'':10} {'pairs':>6}   {'gold falls':12} {'change in gold, SD':24} {'proxy rises':12} change in proxy"]
    for row in rows:
        fell, rose = (f"{row[key]} of {row['seeds']}" for key in ("falls", "rises"))
        lines.append(f"{TITLES[row['method']]:10} {row['pairs']:6,}   {fell:12} {shown(row['gold']):24} {rose:12} {shown(row['proxy'])}")
    return "\n".join(lines)


def implicit(rows: Iterable[dict], found: Sequence[Course]) -> str:
    """DPO's own rewards beside gold and the score of a reward model that it never saw, from gold's peak to the last look."""
    lines = [f"{'pairs':>5}   {'change in gold, SD':24} {'beta x KL':24} {'score of a reward model':24} margin on the pairs, by seed"]
    for row in rows:
        if row["method"] == "dpo":
            chosen = overopt.of(found, method="dpo", pairs=row["pairs"], beta=row["beta"])
            margins = [(course.seen["margin"][overopt.peak_of(course)], course.seen["margin"][-1]) for course in chosen]
            told = "  ".join(f"{before:.1f} to {after:.1f}" for before, after in margins)
            lines.append(f"{row['pairs']:5,}   {shown(row['gold']):24} {shown(row['implicit']):24} {shown(row['proxy']):24} {told}")
    return "\n".join(lines)


def peaks(rows: Iterable[dict]) -> str:
    """The square root of KL at gold's peak, seed by seed."""
    return "\n".join(
        f"{TITLES[row['method']]:10} {row['pairs']:6,} pairs   {'  '.join(f'{peak:5.2f}' for peak in row['peaks'])}" for row in rows
    )


def fits(table: Mapping[tuple[str, int, str], dict]) -> str:
    """Both forms fitted to every kind of run, by method, pairs and form."""
    lines = [f"{'':10} {'pairs':>5}  {'form':10} {'a':20} {'b':20} {'rms, SD':>7}  outside"]
    for (method, pairs, form), row in table.items():
        numbers = f"{shown(row['a']):20} {shown(row['b']):20} {row['rms']:7.2f}"
        lines.append(f"{TITLES[method]:10} {pairs:5,}  {form.removesuffix(' form'):10} {numbers}  {row['missed']} of {row['looks']}")
    return "\n".join(lines)


def prices(rows: Mapping[float, dict]) -> str:
    """Runs with a price where they end, against runs without one at the same KL."""
    lines = [f"{'beta':>5}   {'KL at the end, nats':22} {'gain there, SD':24} difference to the run without a price"]
    for beta, row in rows.items():
        lines.append(f"{beta:5g}   {'  '.join(f'{kl:.1f}' for kl in row['kl']):22} {shown(row['gain']):24} {shown(row['difference'])}")
    return "\n".join(lines)


def alarms(told: Mapping[str, Sequence[Told]]) -> str:
    """What the alarms of each monitor were worth."""
    names = overopt.OUTCOMES
    lines = [f"{'':14}" + "".join(f"{name:>10}" for name in names) + f"{'nats left':>12}{'gold kept':>11}"]
    for monitor, each in told.items():
        found = overopt.outcomes(each)
        nats, kept = ("-" if number is None else f"{number:{form}}" for number, form in ((found["nats"], ".1f"), (found["kept"], ".0%")))
        lines.append(f"{monitor:14}" + "".join(f"{found['counts'][name]:10}" for name in names) + f"{nats:>12}{kept:>11}")
    return "\n".join(lines)

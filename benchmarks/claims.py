"""The folklore of optimizers, each as claim, evidence and verdict, out of stored studies.

    python benchmarks/claims.py docs/study docs/study/deep-mlp      writes docs/claims.md

The first folder holds the study of all optimizers, the second that of the deep perceptron; each is
what `thalweg compare --out` leaves.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev

from thalweg.lab.plan import Plan
from thalweg.lab.records.store import Store
from thalweg.lab.stats import expected_best, learning_rate_width, paired
from thalweg.lab.study import Result, Study
from thalweg.rules import OPTIMIZERS

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"
# What nobody would choose an optimizer for, in points of accuracy.
SMALL = 0.25
PLAIN = ("sgd", "momentum", "nag", "qhm", "aggmo")
ADAPTIVE = ("adagrad", "adadelta", "rmsprop", "adam", "amsgrad", "adamax", "nadam", "qhadam")
HOLDS, FAILS, UNKNOWN = "holds", "does not hold here", "cannot tell"


@dataclass(frozen=True)
class Claim:
    """A sentence that people say, what the runs say to it, and whether it holds."""

    says: str
    evidence: Sequence[str]
    verdict: str

    def text(self) -> str:
        """The claim as a section of a page."""
        return "\n".join((f"## {self.says}", "", *self.evidence, "", f"**{self.verdict}**", ""))


def final(study: Study, task: str, optimizer: str) -> dict[int, float]:
    """Test accuracy in percent by seed, of the tuned optimizer."""
    runs = study.judging(task, optimizer)
    ends = {r.run.seed: r.epochs[-1] for r in runs if r.status == "finished"}
    return {seed: 100 * (e.metric if e.test is None else e.test) for seed, e in ends.items()}


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    lines = (heading, ["---"] * len(heading), *rows)
    return ["| " + " | ".join(row) + " |" for row in lines]


def duel(
    study: Study,
    first: str,
    second: str,
    of: Callable[[Study, str, str], dict[int, float]] = final,
    what: str = "test accuracy, %",
    small: float = SMALL,
) -> tuple[list[str], str]:
    """Two tuned optimizers beside each other on every task, and whether the first is better."""
    level = 1 - 0.05 / len(study.plan.tasks)
    rows: list[list[str]] = []
    better = worse = negligible = 0
    for task in study.plan.tasks:
        one, other = of(study, task.spec, first), of(study, task.spec, second)
        shared = sorted(one.keys() & other.keys())
        found = paired([one[s] - other[s] for s in shared], level)
        if found.low is None or found.high is None:
            interval = "too few seeds"
        else:
            interval = f"{found.low:+.2f} to {found.high:+.2f}"
            better += found.low > 0
            worse += found.high < 0
            negligible += found.high < small
        means = (f"{fmean(v.values()):.2f}" if v else "no run finished" for v in (one, other))
        name = study.tasks[task.spec].name
        rows.append([name, *means, f"{found.mean:+.2f}", interval, str(len(shared))])
    heading = ["task", f"{first} ({what})", second, "difference", f"{level:.1%} interval", "seeds"]
    tasks = len(study.plan.tasks)
    if better > tasks / 2 and not worse:
        verdict = HOLDS
    elif (worse and not better) or negligible == tasks:
        verdict = FAILS
    else:
        verdict = UNKNOWN
    return table(heading, rows), verdict


def area(study: Study, task: str, optimizer: str) -> dict[int, float]:
    """The mean validation accuracy over all epochs, in percent, by seed: more is faster."""
    runs = [r for r in study.judging(task, optimizer) if r.status == "finished"]
    return {r.run.seed: 100 * fmean(e.metric for e in r.epochs) for r in runs}


def late(study: Study, task: str, optimizer: str) -> float:
    """Which share of its training loss an optimizer still loses in the second half of a run."""
    runs = [r for r in study.judging(task, optimizer) if r.status == "finished"]
    shares = [
        1 - r.epochs[-1].train_loss / r.epochs[(len(r.epochs) - 1) // 2].train_loss for r in runs
    ]
    return median(shares)


def trials(study: Study, task: str, optimizer: str) -> list[float]:
    """Validation accuracy in percent of every trial, the defaults first; 0 if it did not finish."""
    return [_percent(r) for r in study.tuning(task, optimizer)]


def _percent(result: Result) -> float:
    return 100 * result.epochs[-1].metric if result.status == "finished" else 0.0


def stops_early(study: Study) -> Claim:
    """Adagrad's training loss in the second half of a run."""
    names = ("adagrad", "rmsprop", "adam", "momentum")
    rows = [
        [study.tasks[t.spec].name, *(f"{late(study, t.spec, o):.0%}" for o in names)]
        for t in study.plan.tasks
    ]
    behind = [
        late(study, t.spec, "adagrad") < min(late(study, t.spec, o) for o in names[1:])
        for t in study.plan.tasks
    ]
    duels, verdict = duel(study, "rmsprop", "adagrad")
    worse = verdict == HOLDS
    if all(behind) and worse:
        verdict = HOLDS
    elif not any(behind):
        verdict = FAILS
    else:
        verdict = UNKNOWN
    said = (
        "If it stopped early, its training loss would fall less in the second half of a run than "
        "others', and it would end behind them. By how much the loss of that half falls (median "
        "over seeds, tuned):"
    )
    return Claim(
        "Adagrad stops too early", [said, "", *table(["task", *names], rows), "", *duels], verdict
    )


def need_less_tuning(study: Study) -> Claim:
    """What more trials bring, and how wide good learning rates are."""
    rows: list[list[str]] = []
    easier = 0
    for task in study.plan.tasks:
        gains: list[float] = []
        for family in (PLAIN, ADAPTIVE):
            values = [trials(study, task.spec, o) for o in family]
            defaults = median(max(v) - v[0] for v in values)
            rest = median(max(v) - float(expected_best(v[1:], 4)[0]) for v in values)
            widths = [_width(study, task.spec, o) for o in family]
            known = [w for w in widths if w is not None]
            gains.append(rest)
            rows.append(
                [
                    study.tasks[task.spec].name,
                    "adaptive" if family is ADAPTIVE else "not adaptive",
                    f"{defaults:.2f}",
                    f"{rest:.2f}",
                    f"{median(known):.1f}" if known else "none",
                ]
            )
        easier += gains[1] < gains[0]
    tasks = len(study.plan.tasks)
    verdict = HOLDS if easier == tasks else FAILS if easier == 0 else UNKNOWN
    said = (
        f"Medians over {', '.join(PLAIN)} and over {', '.join(ADAPTIVE)}, in points of validation "
        "accuracy. It holds if, on every task, four random trials bring the adaptive ones nearer "
        "to their best than the others."
    )
    heading = ["task", "optimizers", "defaults behind best", "4 trials behind best"]
    heading.append("decades of learning rate within 1 % of the best")
    return Claim("Adaptive methods need less tuning", [said, "", *table(heading, rows)], verdict)


def _width(study: Study, task: str, optimizer: str) -> float | None:
    ended = [r for r in study.tuning(task, optimizer) if r.status == "finished"]
    if not ended:
        return None
    rates = [float(r.settings["lr"]) for r in ended]  # pyright: ignore
    return learning_rate_width(rates, [_percent(r) for r in ended]).decades


def generalises(study: Study) -> Claim:
    """The best plain optimizer beside the best adaptive one, chosen by validation data."""
    lines: list[str] = []
    verdicts: list[str] = []
    for task in study.plan.tasks:
        best = [
            max(family, key=lambda o: max(trials(study, task.spec, o)))
            for family in (PLAIN, ADAPTIVE)
        ]
        alone = replace(study, plan=_only(study, task.spec))
        found, verdict = duel(alone, *best)
        verdicts.append(verdict)
        lines += [*found, ""]
    verdict = verdicts[0] if len(set(verdicts)) == 1 else UNKNOWN
    said = (
        "On each task the one of "
        f"{', '.join(PLAIN)} that is best on the validation data, beside the best of "
        f"{', '.join(ADAPTIVE)}. It holds if the first is better on the test data of every task."
    )
    return Claim("Tuned SGD generalises better", [said, "", *lines[:-1]], verdict)


def _best(study: Study, task: str, family: Iterable[str]) -> str:
    return max(family, key=lambda o: max(trials(study, task, o)))


def _only(study: Study, task: str) -> Plan:
    return replace(study.plan, tasks=(study.plan.task(task),))


def several_defaults(study: Study) -> Claim:
    """The best of all defaults beside what tuning one optimizer brings."""
    rows: list[list[str]] = []
    near = 0
    for task in study.plan.tasks:
        known = [o for o in study.plan.optimizers if o in OPTIMIZERS]
        defaults = {o: trials(study, task.spec, o)[0] for o in known}
        best = max(defaults, key=lambda o: defaults[o])
        tuned = [max(trials(study, task.spec, o)) for o in known]
        noise = median(
            stdev(v) for o in known if len(v := list(final(study, task.spec, o).values())) > 1
        )
        # As many trials as there are defaults to try.
        near += defaults[best] >= median(tuned) - 2 * noise
        name = study.tasks[task.spec].name
        rows.append(
            [
                name,
                f"{defaults[best]:.2f} ({best})",
                f"{median(tuned):.2f} ({min(tuned):.2f} to {max(tuned):.2f})",
                f"{max(trials(study, task.spec, 'adam')):.2f}",
                f"{noise:.2f}",
            ]
        )
    tasks = len(study.plan.tasks)
    verdict = HOLDS if near == tasks else FAILS if near == 0 else UNKNOWN
    count = len([o for o in study.plan.optimizers if o in OPTIMIZERS])
    said = (
        f"Trying the defaults of {count} optimizers costs about as much as {study.plan.trials} "
        "trials of one. Validation accuracy in %, one seed. It holds if the best default is, on "
        "every task, no more than two standard deviations over seeds behind what tuning one of "
        "them brings in the median."
    )
    heading = ["task", "best of all defaults", "one tuned: median (range)", "adam tuned"]
    heading.append("standard deviation over seeds")
    return Claim(
        "Defaults of several optimizers are worth as much as tuning one",
        [said, "", *table(heading, rows)],
        verdict,
    )


def brings_nothing(study: Study) -> Claim:
    """AMSGrad beside Adam: the claim is that the first is not better."""
    lines, better = duel(study, "amsgrad", "adam")
    verdict = {HOLDS: FAILS, FAILS: HOLDS}.get(better, better)
    return Claim("AMSGrad brings nothing", lines, verdict)


def noise_helps(deep: Study) -> Claim:
    """Each optimizer with noise beside the same one without it, on the deep perceptron."""
    pairs = [(o, o.removeprefix("noise+")) for o in deep.plan.optimizers if o.startswith("noise+")]
    found = [duel(deep, *pair) for pair in pairs]
    [task] = deep.plan.tasks
    lines = [f"MNIST, 20 hidden layers, {task.epochs} epochs, {deep.plan.trials} trials:"]
    for duel_lines, _ in found:
        lines += ["", *duel_lines]
    verdict = ", ".join(f"{said} for {o}" for (_, o), (_, said) in zip(pairs, found, strict=True))
    return Claim("Gradient noise helps a very deep, badly initialised network", lines, verdict)


def claims(study: Study, deep: Study) -> list[Claim]:
    """All of them."""
    speed = duel(study, "nadam", "adam", area, "mean validation accuracy over the epochs, %")
    return [
        Claim("Nesterov beats momentum", *duel(study, "nag", "momentum")),
        stops_early(study),
        Claim("RMSprop mends Adagrad", *duel(study, "rmsprop", "adagrad")),
        Claim("Nadam is slightly faster than Adam", *speed),
        brings_nothing(study),
        Claim("AdamW beats Adam with L2", *duel(study, "adamw", "l2+adam")),
        need_less_tuning(study),
        generalises(study),
        several_defaults(study),
        noise_helps(deep),
    ]


def page(study: Study, deep: Study) -> str:
    """The whole page."""
    found = claims(study, deep)
    plan = study.plan
    trained = ", ".join(f"{study.tasks[t.spec].name} ({t.epochs} epochs)" for t in plan.tasks)
    head = f"""# Folklore, tested

What people say of optimizers, and what the [published study](study.md) says to it:
{trained};
{plan.trials} trials of each optimizer over its declared search space, the best one of each judged
on {len(plan.seeds)} fresh seeds by the test data. `python benchmarks/published_study.py` writes
this page from the stored runs.

A claim that one optimizer beats another **{HOLDS}** if it is better on most of the tasks and worse
on none, where better means that the paired interval of the difference over the seeds (Student's t,
95% for all tasks together) lies above 0. It **{FAILS}** if the optimizer is worse on a
task and better on none, or if on every task the interval lies below {SMALL} points, so that nothing
worth having is left. Otherwise it is: **{UNKNOWN}**.

Three small tasks, short runs, constant learning rates: this is what holds here, not everywhere.
"""
    overview = table(
        ["claim", "verdict"], ([f"[{c.says}](#{_anchor(c.says)})", c.verdict] for c in found)
    )
    return "\n".join((head, *overview, "", *(c.text() for c in found)))


def _anchor(heading: str) -> str:
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c == "-")


def main() -> None:
    """Write the page."""
    study, deep = (Store.open(Path(folder)).study() for folder in sys.argv[1:3])
    PAGE.write_text(page(study, deep).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Which optimizer to use, as code to paste."""

from thalweg.errors import UsageError, unknown
from thalweg.lab.findings.summary import Summary, summarize
from thalweg.lab.plan import Run
from thalweg.lab.report.recipe import recipe
from thalweg.lab.study import Study

__all__ = ["best"]


def best(study: Study, budget: int | None = None, task: str | None = None) -> str:
    """Code that makes the optimizer to use on a task; see `Study.best`.

    With as many trials as the study has, or none given, it is the one that leads on the judging
    seeds. With fewer it is the one of which the best is to be expected of so many trials, with the
    best of its first so many here.
    """
    specs = [t.spec for t in study.plan.tasks]
    if task is None and len(specs) > 1:
        raise UsageError(f"task is missing: which of {', '.join(specs)}?")
    if task is not None and task not in specs:
        raise unknown("task of the study", task, specs)
    trials = study.plan.trials
    if budget is not None and not 1 <= budget <= trials:
        raise UsageError(
            f"budget is {budget}, but must be from 1 to {trials}, the trials that the study has: "
            "for more, extend it."
        )
    summary = summarize(study, task or specs[0])
    if budget is None or budget == trials:
        return _leader(study, summary)
    return _expected(study, summary, budget)


def _leader(study: Study, summary: Summary) -> str:
    leader = summary.rows[0]
    if leader.trial is None or leader.metric is None:
        raise UsageError(f"{summary.headline} So there is nothing to recommend.")
    return _code(study, summary.task, leader.optimizer, leader.trial, summary.headline)


def _expected(study: Study, summary: Summary, budget: int) -> str:
    sign = summary.facts.sign
    expected = {
        name: float(curve.expected[budget - 1])
        for name, curve in summary.budget.items()
        if len(curve.expected) >= budget
    }
    if not expected:
        raise UsageError(
            f"budget is {budget}, but no optimizer has so many trials that ended: go on with the "
            "study first."
        )
    name = max(expected, key=lambda name: sign * expected[name])
    tried = [r for r in study.tuning(summary.task, name) if r.run.trial < budget]
    finished = [r for r in tried if r.status == "finished"]
    if not finished:
        raise UsageError(
            f"budget is {budget}, but none of the first {budget} trials of {name} finished: give "
            "a larger one."
        )
    first = max(finished, key=lambda r: sign * r.epochs[-1].metric)
    trials = "the documented defaults" if budget == 1 else f"the best of {budget} trials"
    said = (
        f"On {summary.facts.name}, {trials} of {name} can be expected to reach "
        f"{summary.facts.metric_name} {expected[name]:.4g} on the validation data."
    )
    return _code(study, summary.task, name, first.run.trial, said)


def _code(study: Study, task: str, optimizer: str, trial: int, said: str) -> str:
    order = study.plan.order(Run(task, optimizer, trial, study.plan.seeds[0]))
    return f"# {said}\n{recipe(order)}"

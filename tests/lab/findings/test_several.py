"""What several tasks say together."""

from dataclasses import replace

import numpy as np
import pytest

from lab import studies
from thalweg.lab.findings.summary import overall, profiles, summaries
from thalweg.lab.stats import performance_profile
from thalweg.lab.study import Study


def three(**given: float) -> Study:
    """adam is best on x and y, sgd on z; nadam ties with adam on y; momentum is never good."""
    best = {
        "x": {"adam": 0.9, "nadam": 0.8, "sgd": 0.7, "momentum": 0.1},
        "y": {"adam": 0.9, "nadam": 0.9, "sgd": 0.7, "momentum": 0.1},
        "z": {"adam": 0.6, "nadam": 0.8, "sgd": 0.9, "momentum": 0.1},
    }
    plan = studies.study(list(best["x"]), tasks=list(best), **{"seeds": 4, **given}).plan  # pyright: ignore
    wobble = {"adam": 0.001, "nadam": -0.001}
    return studies.made(
        plan,
        lambda run: (
            best[run.task][run.optimizer]
            + 0.01 * run.seed
            + wobble.get(run.optimizer, 0.0005) * (-1) ** run.seed
        ),
    )


def test_who_is_best_on_how_many_tasks_is_counted():
    assert overall(three()) == ("Best or tied for best: adam on 2 of 3 tasks; nadam and sgd on 1.")


def test_one_task_has_its_verdict():
    study = studies.study()
    assert overall(study) == summaries(study)[0].verdict


def test_tasks_of_one_name_are_told_by_their_spec():
    study = three()
    same = {spec: replace(facts, name="blobs") for spec, facts in study.tasks.items()}
    part = studies.without(replace(study, tasks=same), lambda r: r.task != "x")
    assert overall(part).endswith("been judged on y and z yet.")


def test_with_few_seeds_no_tie_is_claimed():
    said = overall(three(seeds=2))
    assert said.startswith("First by the mean, which may be luck: adam on ")
    assert "tie" not in said


def test_tasks_that_are_not_whole_yet_are_told_apart():
    study = three()
    part = studies.without(study, lambda r: r.task == "z" or (r.task, r.optimizer) == ("y", "sgd"))
    assert overall(part) == (
        "So far, best or tied for best: adam on 2 of 2 tasks; nadam on 1. Not every optimizer has "
        "been judged on y and z yet."
    )
    # One alone is not the best of anything.
    alone = studies.without(study, lambda r: r.task != "x" and r.optimizer != "sgd")
    assert overall(alone).startswith("So far, best or tied for best: adam on 1 of 1 task. Not")
    none = studies.without(study, lambda r: True)
    assert overall(none) == "Not every optimizer has been judged on x, y and z yet."


def test_a_task_on_which_nothing_finished_is_told():
    study = three()
    lost = [
        replace(r, status="diverged", reason="nan") if r.run.task == "x" else r
        for r in study.results
    ]
    assert overall(replace(study, results=tuple(lost))) == (
        "Best or tied for best: adam, nadam and sgd on 1 of 2 tasks. On x no run finished."
    )


def test_profiles_are_of_the_steps_to_the_targets():
    study = three(target=0.75)
    found = profiles(study)
    assert found is not None
    assert found.optimizers == study.plan.optimizers
    assert found.tasks == ("x", "y", "z")
    steps = [
        [
            next(r for r in s.rows if r.optimizer == o).steps_to_target or np.inf
            for o in found.optimizers
        ]
        for s in summaries(study)
    ]
    expected = performance_profile(steps)
    assert found.profile.ratios == pytest.approx(expected.ratios)
    assert found.profile.shares == pytest.approx(expected.shares)
    assert np.isinf(found.profile.ratios[:, 3]).all()
    assert np.isfinite(found.profile.ratios[:, 1]).all()


def test_profiles_need_two_whole_tasks():
    study = three()
    assert profiles(studies.study()) is None
    one = studies.without(study, lambda r: r.task != "x")
    assert profiles(one) is None
    two = profiles(studies.without(study, lambda r: r.task == "y" and r.optimizer == "sgd"))
    assert two is not None
    assert two.tasks == ("x", "z")
    # Nobody is there: such a task tells nothing of speed.
    assert profiles(three(target=99.0)) is None

"""Every row's steps, worked by hand, against the float64 reference."""

import numpy as np
import pytest

from cases import CASES, Case
from thalweg import rules


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_steps_are_those_worked_by_hand(case: Case) -> None:
    worked = case.worked
    theta, state = np.array(worked.start), None
    settings = dict(case.settings)
    points = []
    for g, expected, change in zip(worked.gradients, worked.after, worked.changes, strict=False):
        settings |= change

        def gradient(at, g=g):
            points.append(at)
            return np.array(g)

        theta, state = case.rule.step(
            theta, gradient, state, convention=case.convention, **settings
        )
        np.testing.assert_allclose(theta, expected, rtol=1e-12)
    befores = [worked.start, *worked.after[:-1]]
    np.testing.assert_allclose(points, worked.at or befores, rtol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_worked_steps_are_complete(case: Case) -> None:
    worked = case.worked
    assert len(worked.after) == len(worked.gradients) <= len(worked.changes)
    assert worked.at is None or len(worked.at) == len(worked.after)


def test_every_rule_and_stage_has_a_row() -> None:
    rows = {link.name for case in CASES for link in case.rule.links} | {c.name for c in CASES}
    assert set(rules.OPTIMIZERS) <= rows
    assert set(rules.STAGES) <= rows


def test_every_choice_of_every_flag_has_a_row() -> None:
    seen = {
        (link.name, name, choice)
        for case in CASES
        for link in case.rule.links
        for name, choice in case.rule.settings(case.convention, **case.flags).flags.items()
        if name in link.flags
    }
    declared = {
        (rule.name, name, choice)
        for rule in rules.OPTIMIZERS.values()
        if len(rule.links) == 1
        for name, flag in rule.flags.items()
        for choice in flag.choices
    }
    assert declared <= seen


def test_rows_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)

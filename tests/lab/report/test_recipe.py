"""The code a report offers makes the optimizer that was run."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import thalweg
from thalweg.lab.contestant import contestant
from thalweg.lab.plan import Order, Plan, Run, TaskPlan
from thalweg.lab.report.recipe import recipe, rounded
from thalweg.rules import OPTIMIZERS, Rule
from thalweg.training.order import course

WORDS = (
    *OPTIMIZERS,
    "nadam:correct_ahead=true",
    "l2:weight_decay=0.1+adam:beta1=0.8",
    "clip_norm:max_norm=0.5+momentum",
    "noise+sgd",
    "adam:decay=l2|decoupled",
    "aggmo:betas=0.0/0.5",
)


@thalweg.rule("Own", paper="")
def own(g: Any, theta: Any, *, lr: Any = thalweg.hyper(0.1, "[0, inf)", "rate")) -> Any:
    return lr * g


def order(optimizer: str | Rule, convention: str = "paper", trial: int = 1, **given: Any) -> Order:
    entry = contestant(optimizer, 2, **given)
    rules = {entry.name: optimizer} if isinstance(optimizer, Rule) else {}
    plan = Plan((TaskPlan("t", 3, 8),), (entry,), convention, 2, (1,), rules=rules)
    return plan.order(Run("t", entry.name, min(trial, len(entry.configurations) - 1), 0))


def model() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Linear(3, 2)


def made(text: str, of: torch.nn.Module) -> torch.optim.Optimizer:
    there: dict[str, Any] = {"model": of, "own": own, "batches": range(4)}
    exec(text, there)
    return there["optimizer"]


def trained(of: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> list[float]:
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    for _ in range(steps):
        optimizer.zero_grad()
        (of(x) - 1).square().mean().backward()
        optimizer.step()
    return [float(w) for p in of.parameters() for w in p.detach().flatten()]


@pytest.mark.parametrize("convention", ["paper", "torch", "keras"])
@pytest.mark.parametrize("trial", [0, 1])
@pytest.mark.parametrize("words", [*WORDS, own])
def test_it_trains_as_what_was_run(words: str | Rule, trial: int, convention: str) -> None:
    wanted = order(words, convention, trial)
    seeds = {n for n in wanted.rule.given if n.endswith("seed")}
    short = {n: rounded(v) for n, v in wanted.rule.given.items() if n not in seeds}
    wanted = replace(wanted, rule=replace(wanted.rule, given=short))
    one, other = model(), model()
    before = thalweg.Optimizer(one.parameters(), wanted.rule, convention=convention)
    assert trained(one, before) == pytest.approx(
        trained(other, made(recipe(wanted), other)), rel=2e-4, abs=1e-6
    )


def test_names_are_the_public_ones() -> None:
    assert recipe(order("adam:beta1=0.8:lr=0.002:beta2=0.99:eps=1e-7", "torch", 0)) == (
        "import thalweg\n\n"
        "optimizer = thalweg.Adam(model.parameters(), lr=0.002, beta1=0.8, beta2=0.99, eps=1e-07)"
    )
    text = recipe(order("l2:weight_decay=0.25+sgd", "paper", 0))
    assert "thalweg.chain(thalweg.l2, thalweg.sgd)" in text
    assert 'convention="paper"' in text


@pytest.mark.parametrize("words", ["adam:lr=0.02", "momentum:lr=0.1", "sgd:lr=0.1"])
def test_a_schedule_goes_over_the_whole_run(words: str) -> None:
    wanted = order(words, trial=0, schedule="one-cycle")
    here, there = model(), model()

    def make(params: Any) -> thalweg.Optimizer:
        return thalweg.Optimizer(params, wanted.rule, convention="paper")

    given = dict.fromkeys(wanted.rule.given, "")
    [phase] = course(make, wanted.epochs, wanted.schedule, given=given)
    over = {n: s.over(12) for n, s in phase.settings.items()}
    kept = {n: v for n, v in wanted.rule.given.items() if n not in over}
    wanted_rule = replace(wanted.rule, given=kept)
    expected = thalweg.Optimizer(here.parameters(), wanted_rule, convention="paper", **over)
    assert trained(here, expected, 12) == pytest.approx(
        trained(there, made(recipe(wanted), there), 12), rel=1e-6
    )


def test_numbers_near_1_keep_their_distance_from_it() -> None:
    assert rounded(0.99887661) == 0.998877
    assert rounded(0.000265521298) == 0.0002655
    assert rounded(0.99) == 0.99
    assert rounded((0.0, 0.912345678)) == (0.0, 0.91235)
    assert rounded(True) is True

"""What Keras and optax do beside their optimizers, what has no counterpart here, and that the page
for those who come from there leaves out no optimizer."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import thalweg as tw
from thalweg.optim import CLASSES
from thalweg.rules import chain

jax = pytest.importorskip("jax")
keras = pytest.importorskip("keras")
optax = pytest.importorskip("optax")

PAGE = (Path(__file__).parents[2] / "docs/coming-from.md").read_text(encoding="utf-8")
GRADIENTS = {"a": np.array([3.0, -0.2, 0.5]), "b": np.array([[-4.0], [0.1]])}
LENGTH = float(np.sqrt(sum((g**2).sum() for g in GRADIENTS.values())))


def stepped(rule: tw.Rule) -> dict[str, np.ndarray]:
    """The gradients as they come out of a stage before SGD."""
    zeros = {name: np.zeros_like(g) for name, g in GRADIENTS.items()}
    params, _ = chain(rule, tw.sgd(1.0)).step(zeros, GRADIENTS)
    return {name: -x for name, x in params.items()}


def in_keras(**clip: float) -> dict[str, np.ndarray]:
    optimizer = keras.optimizers.SGD(1.0, **clip)
    variables = [keras.Variable(np.zeros_like(g), dtype="float64") for g in GRADIENTS.values()]
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in GRADIENTS.values()], variables)
    return {n: -np.array(v.value) for n, v in zip(GRADIENTS, variables, strict=True)}


def in_optax(transformation) -> dict[str, np.ndarray]:
    found, _ = transformation.update(GRADIENTS, transformation.init(GRADIENTS))
    return {name: np.array(x) for name, x in found.items()}


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray], rtol: float) -> None:
    for name in GRADIENTS:
        np.testing.assert_allclose(one[name], other[name], rtol=rtol)


def test_clipping_by_value_is_the_same_everywhere() -> None:
    ours = stepped(tw.clip_value(0.4))
    assert_equal(ours, in_keras(clipvalue=0.4), 1e-15)
    assert_equal(ours, in_optax(optax.clip(0.4)), 1e-15)
    assert ours["a"].tolist() == [0.4, -0.2, 0.4]


def test_clipping_by_norm_differs_by_what_torch_adds() -> None:
    ours = stepped(tw.clip_norm(0.5))
    for theirs in (in_keras(global_clipnorm=0.5), in_optax(optax.clip_by_global_norm(0.5))):
        added = {name: x * LENGTH / (LENGTH + 1e-6) for name, x in theirs.items()}
        assert_equal(ours, added, 1e-12)
        np.testing.assert_allclose(sum((x**2).sum() for x in theirs.values()), 0.25, rtol=1e-12)
        with pytest.raises(AssertionError):
            assert_equal(ours, theirs, 1e-8)


def test_keras_clips_each_variable_by_itself() -> None:
    for name, x in in_keras(clipnorm=0.5).items():
        np.testing.assert_allclose(x, 0.5 * GRADIENTS[name] / np.linalg.norm(GRADIENTS[name]))


def test_schedules_begin_with_step_0_everywhere() -> None:
    rates = [1.0, 0.5, 0.25, 0.125]
    asked = {"keras": [], "optax": []}

    class Halving(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            asked["keras"].append(int(step))
            return 0.5**step

    def halving(count):
        asked["optax"].append(int(count))
        return 0.5**count

    paths = {"torch": [], "keras": [], "optax": []}
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = tw.SGD([p], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    variable, theirs = keras.Variable([0.0], dtype="float64"), keras.optimizers.SGD(Halving())
    transformation = optax.sgd(halving)
    state, weight = transformation.init(np.zeros(1)), np.zeros(1)
    for _ in rates:
        p.grad = torch.ones_like(p)
        optimizer.step()
        scheduler.step()
        paths["torch"].append(p.item())
        theirs.apply([keras.ops.ones(1, dtype="float64")], [variable])
        paths["keras"].append(float(np.array(variable.value)[0]))
        update, state = transformation.update(np.ones(1), state)
        weight = weight + np.array(update)
        paths["optax"].append(float(weight[0]))
    for path in paths.values():
        np.testing.assert_allclose(path, -np.cumsum(rates))
    assert sorted({*asked["keras"]}) == sorted({*asked["optax"]}) == [0, 1, 2, 3]


NAMES = (
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "amsgrad",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
)


def test_optax_has_no_default_learning_rates() -> None:
    for name in NAMES:
        rate = inspect.signature(getattr(optax, name)).parameters["learning_rate"]
        assert rate.default is inspect.Parameter.empty
    assert inspect.signature(optax.adadelta).parameters["learning_rate"].default is None


def test_optax_adadelta_without_a_rate_climbs() -> None:
    ends = []
    for transformation in (optax.adadelta(), optax.adadelta(1.0)):
        theta = np.ones(1)
        state = transformation.init(theta)
        for _ in range(3):
            update, state = transformation.update(np.ones(1), state, theta)
            theta = theta + np.array(update)
        ends.append(float(theta[0]))
    climbs, descends = ends
    ours, state = np.ones(1), None
    for _ in range(3):
        ours, state = tw.adadelta.step(ours, np.ones(1), state, convention="optax")
    np.testing.assert_allclose(ours[0], descends, rtol=1e-12)
    np.testing.assert_allclose(climbs - 1, 1 - descends, rtol=1e-12)


def test_arguments_that_have_no_counterpart() -> None:
    """The page lists what optax takes and nothing here does."""
    ours = {n for r in tw.rules.OPTIMIZERS.values() for n in (*r.hypers, *r.flags)}
    for name, argument in (("adam", "eps_root"), ("adam", "mu_dtype")):
        assert argument in inspect.signature(getattr(optax, name)).parameters
        assert argument not in ours


def told_to_be_missing(test: str) -> set[str]:
    """The names in the first cell of the row of a test."""
    (cell,) = re.findall(rf"^\| ([^|]*) \|.*::{test}` \|$", PAGE, re.MULTILINE)
    return {*re.findall(r"`(\w+)`", cell)}


def test_what_keras_alone_has() -> None:
    theirs = {n for n, made in vars(keras.optimizers).items() if inspect.isclass(made)}
    # These hold optimizers, or are what all are made from.
    theirs -= {"LossScaleOptimizer", "MultiOptimizer", "Optimizer", "OptimizerMap"}
    ours = {name.lower() for name in CLASSES}
    found = {name for name in theirs if name.lower() not in ours}
    assert found == told_to_be_missing("test_what_keras_alone_has")


def test_what_optax_alone_has() -> None:
    theirs = {
        n for n, f in vars(optax).items() if getattr(f, "__module__", "") == "optax._src.alias"
    }
    # AdamaxW is Adamax with another decay.
    ours = {name.lower() for name in CLASSES} | {"adamaxw"}
    assert theirs - ours == told_to_be_missing("test_what_optax_alone_has")


def left_out() -> dict[str, np.ndarray]:
    """Where a step goes of which `a` decays and `b` does not."""
    params = {n: torch.ones(g.shape, dtype=torch.float64) for n, g in GRADIENTS.items()}
    groups = [{"params": [params["a"]]}, {"params": [params["b"]], "weight_decay": 0.0}]
    optimizer = tw.AdamW(groups, lr=0.1, weight_decay=0.5)
    for name, p in params.items():
        p.grad = torch.from_numpy(GRADIENTS[name])
    optimizer.step()
    return {name: p.numpy() for name, p in params.items()}


def test_variables_are_left_out_of_the_decay_as_in_keras() -> None:
    variables = [
        keras.Variable(np.ones(g.shape), dtype="float64", name=n) for n, g in GRADIENTS.items()
    ]
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5, epsilon=1e-8)
    optimizer.exclude_from_weight_decay(var_names=["b"])
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in GRADIENTS.values()], variables)
    theirs = {n: np.array(v.value) for n, v in zip(GRADIENTS, variables, strict=True)}
    # The first epsilon is beside nothing smaller than 0.1.
    assert_equal(left_out(), theirs, 1e-5)


def test_parameters_are_left_out_of_the_decay_as_by_a_mask() -> None:
    params = {name: np.ones_like(g) for name, g in GRADIENTS.items()}
    masked = optax.adamw(0.1, weight_decay=0.5, mask={"a": True, "b": False})
    updates, _ = masked.update(GRADIENTS, masked.init(params), params)
    theirs = {name: params[name] + np.array(updates[name]) for name in params}
    assert_equal(left_out(), theirs, 1e-12)


@pytest.mark.parametrize("library", ["Keras", "optax"])
def test_every_optimizer_that_a_convention_changes_has_a_row(library: str) -> None:
    table = PAGE.partition(f"\n### {library}\n")[2].partition("\n### ")[0]
    cells = re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)
    told = {name for cell in cells for name in cell.split(", ")}
    rules = tw.rules.OPTIMIZERS.values()
    assert {r.title for r in rules if r.by_convention(library.lower())} <= told

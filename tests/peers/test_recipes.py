"""The recipes of the page for those who come from elsewhere: each is what it says it was."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw
from peers import timm_optim
from peers.walks import gradient

PAGE = (Path(__file__).parents[2] / "docs/coming-from.md").read_text(encoding="utf-8")
# What it was, and the lines that take its place.
RECIPES = re.findall(r"^# was: (.*)\n((?:.+\n)+?)(?=\n|```)", PAGE, re.MULTILINE)
LIBRARIES = ("torch", "keras", "optax", "timm")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()


def gradients(weights: list[np.ndarray], t: int) -> list[np.ndarray]:
    """Every other ones are short, and not clipped."""
    size = 0.1 if t % 2 else 1.0
    return [size * gradient(w.ravel(), t + i).reshape(w.shape) for i, w in enumerate(weights)]


def walked(code: str, names: dict[str, Any]) -> list[np.ndarray]:
    """The weights after some steps by a torch optimizer, ours or theirs."""
    model = network()
    names = {"model": model, "torch": torch, "tw": tw, **names}
    exec(code, names)
    params = [*model.parameters()]
    for t in range(20):
        weights = [p.detach().numpy() for p in params]
        for p, g in zip(params, gradients(weights, t), strict=True):
            p.grad = torch.from_numpy(g)
        names["optimizer"].step()
    return [p.detach().numpy() for p in params]


def walked_in_keras(code: str) -> list[np.ndarray]:
    pytest.importorskip("jax")
    keras = pytest.importorskip("keras")
    keras.config.set_floatx("float64")
    optimizer = eval(code, {"keras": keras})
    variables = [keras.Variable(p.detach().numpy()) for p in network().parameters()]
    for t in range(20):
        found = gradients([np.array(v.value) for v in variables], t)
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in found], variables)
    return [np.array(v.value) for v in variables]


def walked_in_optax(code: str) -> list[np.ndarray]:
    pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    transformation = eval(code, {"optax": optax})
    weights = [p.detach().numpy() for p in network().parameters()]
    state = transformation.init(weights)
    for t in range(20):
        updates, state = transformation.update(gradients(weights, t), state, weights)
        weights = [w + np.array(u) for w, u in zip(weights, updates, strict=True)]
    return weights


def theirs(was: str) -> list[np.ndarray]:
    match was.partition(".")[0]:
        case "keras":
            return walked_in_keras(was)
        case "optax":
            return walked_in_optax(was)
        case "timm":
            names = {"timm": SimpleNamespace(optim=timm_optim.module())}
            return walked(f"optimizer = {was}", names)
        case _:
            return walked(f"optimizer = {was}", {})


def test_there_is_a_recipe_for_every_library() -> None:
    assert {was.partition(".")[0] for was, _ in RECIPES} == {*LIBRARIES}
    assert len(RECIPES) == PAGE.count("# was: ")


@pytest.mark.parametrize(("was", "recipe"), RECIPES, ids=[was for was, _ in RECIPES])
def test_a_recipe_is_what_it_was(was: str, recipe: str) -> None:
    start = [p.detach().numpy() for p in network().parameters()]
    for ours, other, before in zip(walked(recipe, {}), theirs(was), start, strict=True):
        way = np.abs(other - before).max()
        assert way > 1e-5
        # torch's clipping, which is ours, adds 1e-6 to the norm.
        assert np.abs(ours - other).max() < 1e-6 * way

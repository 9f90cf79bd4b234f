"""Parameter groups: what decays, what does not, and that optimizers take them."""

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg import decay_groups


class ScaleNorm2d(nn.Module):
    """A normalization of a user's own, with more than one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2, 3))


class Derived(nn.LayerNorm):
    """One whose name does not tell."""


class PreNorm(nn.Module):
    """No normalization, but around one and around weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(4)
        self.inner = nn.Linear(4, 4)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.table_of_bias = nn.Parameter(torch.ones(5, 2))
        self.unbiased = nn.Parameter(torch.ones(5, 2))


# A layer, and those of its parameters that decay.
LAYERS: dict[str, tuple[nn.Module, set[str]]] = {
    "linear": (nn.Linear(3, 2), {"weight"}),
    "convolution": (nn.Conv2d(1, 2, 3), {"weight"}),
    "embedding": (nn.Embedding(5, 2), {"weight"}),
    "attention": (
        nn.MultiheadAttention(4, 2, add_bias_kv=True),
        {"in_proj_weight", "out_proj.weight"},
    ),
    "recurrent": (nn.LSTM(2, 3), {"weight_ih_l0", "weight_hh_l0"}),
    "bilinear": (nn.Bilinear(2, 3, 4), {"weight"}),
    "prelu": (nn.PReLU(), set()),
    "layer norm": (nn.LayerNorm((2, 3, 4)), set()),
    "batch norm": (nn.BatchNorm2d(3), set()),
    "instance norm": (nn.InstanceNorm1d(3, affine=True), set()),
    "group norm": (nn.GroupNorm(1, 3), set()),
    "rms norm": (nn.RMSNorm((2, 3)), set()),
    "own norm": (ScaleNorm2d(), set()),
    "derived norm": (Derived((2, 3)), set()),
    "around a norm": (PreNorm(), {"inner.weight"}),
    "own parameters": (Scaled(), {"unbiased"}),
}


def names(groups: list[dict]) -> dict[float, list[str]]:
    """The names in each group, by its decay."""
    return {group["weight_decay"]: [name for name, _ in group["params"]] for group in groups}


@pytest.mark.parametrize(("layer", "decays"), LAYERS.values(), ids=LAYERS)
def test_what_decays(layer: nn.Module, decays: set[str]) -> None:
    found = names(decay_groups(layer, 0.1))
    every = {name for name, _ in layer.named_parameters()}
    expected = {0.1: decays, 0.0: every - decays}
    assert {w: set(n) for w, n in found.items()} == {w: n for w, n in expected.items() if n}


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 7))
    model[3].weight = model[0].weight
    return model


def test_each_parameter_is_there_once_under_its_name() -> None:
    model = network()
    found = [(name, p) for group in decay_groups(model, 0.1) for name, p in group["params"]]
    assert names(decay_groups(model, 0.1)) == {
        0.1: ["0.weight", "1.weight"],
        0.0: ["1.bias", "2.weight", "2.bias", "3.bias"],
    }
    own = dict(model.named_parameters())
    assert len(found) == len(own)
    assert all(p is own[name] for name, p in found)


def test_frozen_parameters_stay_where_they_would_be() -> None:
    model = network()
    expected = names(decay_groups(model, 0.1))
    model[1].requires_grad_(False)
    assert names(decay_groups(model, 0.1)) == expected


@pytest.mark.parametrize("skip", [["1.weight"], ["?.weight", "1.b*"], "1.*"], ids=str)
def test_what_is_skipped_does_not_decay(skip: str | list[str]) -> None:
    found = names(decay_groups(network(), 0.1, skip=skip))
    assert "1.weight" in found[0.0]
    assert ("0.weight" in found[0.0]) == ("?.weight" in skip)


def test_a_shared_parameter_is_skipped_by_any_of_its_names() -> None:
    assert "0.weight" in names(decay_groups(network(), 0.1, skip=["3.weight"]))[0.0]


def test_a_parameter_that_is_shared_with_a_norm_does_not_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm((2, 3)))
    model[0].weight = model[1].weight
    assert names(decay_groups(model, 0.1)) == {0.0: ["0.weight", "0.bias", "1.bias"]}


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(tw.UsageError) as caught:
        decay_groups(network(), 0.1, skip=["1.weight", "*.layer.wieght"])
    assert "skip has '*.layer.wieght', which matches no parameter" in str(caught.value)
    assert "The nearest is '" in str(caught.value)
    with pytest.raises(tw.UsageError, match=r"nearest is '1\.weight'"):
        decay_groups(network(), 0.1, skip=["1.weihgt"])
    with pytest.raises(tw.UsageError, match="the model has no parameters"):
        decay_groups(nn.Tanh(), 0.1, skip=["weight"])


def test_parameters_alone_are_no_model() -> None:
    with pytest.raises(tw.UsageError, match=r"model is .*, but must be a torch\.nn\.Module"):
        decay_groups(network().parameters(), 0.1)  # pyright: ignore


RULE = tw.chain(tw.sgd, tw.decay)
OPTIMIZERS = {
    "AdamW": lambda groups: tw.AdamW(groups, lr=0.5),
    "SGD": lambda groups: tw.SGD(groups, lr=0.5),
    "chain": lambda groups: tw.Optimizer(groups, RULE, lr=0.5),
    "torch's AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.5),
}


@pytest.mark.parametrize("made", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_let_the_first_group_alone_decay(made) -> None:
    model = network()
    optimizer = made(decay_groups(model, 0.1))
    before: dict[str, Tensor] = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 0.95 if name in ("0.weight", "1.weight") else 1
        torch.testing.assert_close(p.detach(), factor * before[name], msg=name)
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "1.weight"]

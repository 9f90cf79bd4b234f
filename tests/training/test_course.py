"""What every setting of an optimizer is in each step of a run, and what is trained."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg import UsageError
from thalweg.schedules import cosine, linear
from thalweg.training import Phase
from thalweg.training.course import Course, layers_needed

PER_EPOCH = 5


class Trained:
    """A model of three layer groups and its course."""

    def __init__(self, optimizer: Any, phases: Sequence[Phase], **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("first", "second", "head")})
        layers = {n: list(layer.parameters()) for n, layer in self.model.items()}
        names = list(self.model.named_parameters())
        groups = [{"params": group} for group in layers.values()]
        apart = layers_needed(phases)
        self.optimizer = optimizer(groups if apart else [p for _, p in names], **settings)
        self.course = Course(phases, PER_EPOCH, self.optimizer, layers, names)

    def step(self, step: int) -> None:
        self.course.follow(step)
        generator = torch.Generator().manual_seed(step)
        for p in self.model.parameters():
            p.grad = torch.randn(p.shape, generator=generator) if p.requires_grad else None
        self.optimizer.step()

    def walk(self, name: str = "lr") -> list[list[Any]]:
        """A setting of every group in every step."""
        found: list[list[Any]] = []
        for step in range(self.course.total):
            self.step(step)
            found.append([group[name] for group in self.optimizer.param_groups])
        return found

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]

    def frozen(self) -> list[str]:
        return [n for n, p in self.model.named_parameters() if not p.requires_grad]


SGD = [torch.optim.SGD, tw.SGD]


@pytest.mark.parametrize("sgd", SGD)
def test_settings_are_the_phases_and_else_the_optimizers_own(sgd: Any) -> None:
    phases = [Phase(1, lr=linear(1.0, 0.0)), Phase(1), Phase(1, lr=0.25, momentum=0.5), Phase(1)]
    trained = Trained(sgd, phases, lr=0.125, momentum=0.75)
    lr = [linear(1.0, 0.0, 5)(i) for i in range(5)] + [0.125] * 5 + [0.25] * 5 + [0.125] * 5
    assert trained.walk() == [[x] for x in lr]
    momentum = Trained(sgd, phases, lr=0.125, momentum=0.75).walk("momentum")
    assert momentum == [[0.75]] * 10 + [[0.5]] * 5 + [[0.75]] * 5


@pytest.mark.parametrize("adam", [torch.optim.Adam, tw.Adam])
def test_betas_have_names_of_their_own_and_momentum_is_one_of_them(adam: Any) -> None:
    phases = [Phase(1, beta2=0.5), Phase(1, momentum=linear(0.5, 0.25)), Phase(1)]
    found = Trained(adam, phases, betas=(0.75, 0.875)).walk("betas")
    curve = linear(0.5, 0.25, 5)
    assert found[:5] == [[(0.75, 0.5)]] * 5
    assert found[5:10] == [[(curve(i), 0.875)] for i in range(5)]
    assert found[10:] == [[(0.75, 0.875)]] * 5


@pytest.mark.parametrize("sgd", SGD)
def test_each_layer_group_has_its_own_of_a_tuple(sgd: Any) -> None:
    phases = [Phase(1, lr=0.5), Phase(1, lr=(0.1, linear(0.2, 0.0), 0.3)), Phase(1)]
    found = Trained(sgd, phases, lr=1.0).walk()
    assert found[:5] == [[0.5] * 3] * 5
    assert found[5:10] == [[0.1, linear(0.2, 0.0, 5)(i), 0.3] for i in range(5)]
    assert found[10:] == [[1.0] * 3] * 5


def test_a_tuple_trains_as_groups_made_by_hand_do() -> None:
    trained = Trained(tw.Adam, [Phase(1, lr=(0.1, 0.2, 0.3))])
    other = Trained(tw.Adam, [Phase(1, lr=(9.0, 9.0, 9.0))])
    for group, lr in zip(other.optimizer.param_groups, (0.1, 0.2, 0.3), strict=True):
        group["lr"] = lr
    trained.walk()
    other.course.follow = lambda step: None  # type: ignore[method-assign]
    other.walk()
    for p, q in zip(trained.weights(), other.weights(), strict=True):
        assert torch.equal(p, q)


def test_the_optimizers_own_schedules_run_through_all_phases() -> None:
    whole, own = linear(1.0, 0.0, 15), cosine(0.5, 0.25, 5)
    trained = Trained(tw.SGD, [Phase(1), Phase(1, lr=own), Phase(1)], lr=whole)
    assert "schedules" not in trained.optimizer.param_groups[0]
    found = trained.walk()
    expected = [own(i - 5) if 5 <= i < 10 else whole(i) for i in range(15)]
    assert found == [[x] for x in expected]


@pytest.mark.parametrize("sgd", SGD)
def test_a_learning_rate_that_is_a_tensor_is_its_own_again(sgd: Any) -> None:
    settings: Any = {"foreach": True} if sgd is torch.optim.SGD else {}
    trained = Trained(sgd, [Phase(1, lr=0.25), Phase(1)], lr=torch.tensor(0.5), **settings)
    found: list[float] = []
    for step in range(10):
        trained.step(step)
        found.append(float(trained.optimizer.param_groups[0]["lr"]))
    assert found == [0.25] * 5 + [0.5] * 5


BODY = ["first.weight", "first.bias", "second.weight", "second.bias"]


@pytest.mark.parametrize(
    ("freeze", "names"),
    [
        ("body", BODY),
        ("first", BODY[:2]),
        (("first", "second.bias"), [*BODY[:2], "second.bias"]),
        ("head.weight", ["head.weight"]),
        ((), []),
    ],
)
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, tw.AdamW])
def test_what_is_frozen_stays_and_goes_on_afterwards(
    optimizer: Any, freeze: Any, names: list[str]
) -> None:
    trained = Trained(optimizer, [Phase(1), Phase(1, freeze=freeze), Phase(1)], weight_decay=0.5)
    before: dict[str, Tensor] = {}
    for step in range(15):
        trained.step(step)
        assert trained.frozen() == (names if 5 <= step < 10 else [])
        now = {n: p.detach().clone() for n, p in trained.model.named_parameters()}
        for n, p in before.items():
            assert torch.equal(p, now[n]) == (n in trained.frozen())
        before = now


def test_what_needs_no_gradient_by_itself_never_gets_one() -> None:
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("first", "second")})
    model["first"].bias.requires_grad_(False)
    names = list(model.named_parameters())
    layers = {n: list(layer.parameters()) for n, layer in model.items()}
    optimizer = tw.SGD(model.parameters(), lr=0.1)
    course = Course([Phase(1, freeze="second"), Phase(1)], 5, optimizer, layers, names)
    for step in (0, 5):
        course.follow(step)
        wanted = [n for n, p in names if p.requires_grad]
        assert wanted == ["first.weight", *(BODY[2:] if step else [])]


DECAYS = ["l2", "decoupled", "independent"]


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "AggMo"])
@pytest.mark.parametrize("decay", DECAYS)
def test_a_phase_may_decay_in_another_way(name: str, decay: str) -> None:
    cls = getattr(tw, name)
    settings = {"lr": 0.1, "weight_decay": 0.25}
    trained = Trained(cls, [Phase(1), Phase(1, decay=decay), Phase(1)], **settings)
    trained.walk()
    # Two optimizers, each of which takes over what the other has gathered.
    other = Trained(cls, [Phase(3)], **settings)
    parts: list[Any] = [
        cls(list(other.model.parameters()), **settings, **d) for d in ({}, {"decay": decay}, {})
    ]
    state: Any = {}
    for i, part in enumerate(parts):
        part.load_state_dict({**part.state_dict(), "state": state})
        other.optimizer = part
        for step in range(5 * i, 5 * i + 5):
            other.step(step)
        state = part.state_dict()["state"]
    for p, q in zip(trained.weights(), other.weights(), strict=True):
        assert torch.equal(p, q)


def test_shrinking_halves_what_every_phase_says_of_the_learning_rate() -> None:
    phases = [Phase(1, lr=linear(1.0, 0.0)), Phase(1), Phase(1, lr=0.25)]
    trained = Trained(tw.SGD, phases, lr=0.125, momentum=0.5)
    trained.course.follow(2)
    trained.course.shrink(2, 0.5)
    assert trained.course.settings()["lr"] == 0.5 * linear(1.0, 0.0, 5)(2)
    found: list[float] = []
    for step in range(3, 15):
        trained.course.follow(step)
        found.append(trained.optimizer.param_groups[0]["lr"])
        assert trained.optimizer.param_groups[0]["momentum"] == 0.5
    curve = linear(1.0, 0.0, 5)
    assert found == [0.5 * curve(3), 0.5 * curve(4), *[0.0625] * 5, *[0.125] * 5]


def test_settings_are_numbers_and_betas_one_by_one() -> None:
    found = Trained(tw.Adam, [Phase(1, lr=0.25)], betas=(0.5, 0.75)).course.settings()
    assert (found["lr"], found["beta1"], found["beta2"]) == (0.25, 0.5, 0.75)
    assert "amsgrad" not in found


def late(step: int, value: float = math.nan) -> float:
    return value if step == 3 else 0.5


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, tw.AdamW])
@pytest.mark.parametrize(
    ("phases", "says"),
    [
        ([Phase(1), Phase(1, lr=late)], "lr is nan at step 8"),
        ([Phase(1, lr=lambda step: late(step, -1.0))], r"at step 3: .*(lr|[Ll]earning rate).*-1"),
        ([Phase(1, lr=(0.1, 0.1, lambda step: late(step, -1.0)))], "at step 3: .*-1"),
        ([Phase(1), Phase(1, beta1=lambda step: late(step, 1.5))], r"at step 8: .*1\.5"),
        ([Phase(1, lr=lambda step: "high")], "lr is 'high' at step 0"),  # type: ignore[arg-type]
        ([Phase(1, lr=(0.1, 0.2))], "lr in phase 0 has 2 values, but .* 3 layer groups: first, se"),
        ([Phase(1), Phase(1, freeze="tail")], "tail"),
        ([Phase(1, freeze=("body", "head"))], "leaves nothing to train"),
        ([Phase(1, decay="twice")], "twice"),
        ([Phase(1, speed=1.0)], "speed"),
    ],
)
def test_what_is_wrong_in_any_step_is_found_beforehand(
    optimizer: Any, phases: list[Phase], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        Trained(optimizer, phases)


def test_torchs_optimizers_have_no_choice_of_decay() -> None:
    with pytest.raises(UsageError, match="phase 1 has decay='l2', but AdamW has no choice of it"):
        Trained(torch.optim.AdamW, [Phase(1), Phase(1, decay="l2")])


def test_a_schedule_of_the_optimizer_must_cover_the_run() -> None:
    with pytest.raises(UsageError, match="schedule of lr covers 9 steps, but the run has 10"):
        Trained(tw.Adam, [Phase(2)], lr=tw.one_cycle(0.1, steps=9))
    Trained(tw.Adam, [Phase(1), Phase(1, lr=0.1)], lr=tw.one_cycle(0.1, steps=5))


def test_a_value_that_is_out_of_range_leaves_the_optimizer_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    optimizer = tw.SGD(model.parameters(), lr=0.5)
    names = list(model.named_parameters())
    with pytest.raises(UsageError):
        Course(
            [Phase(1, lr=0.25), Phase(1, lr=-1.0)],
            5,
            optimizer,
            {"all": [p for _, p in names]},
            names,
        )
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("sgd", SGD)
def test_the_first_step_that_is_out_of_range_is_named(sgd: Any) -> None:
    falling = [Phase(1), Phase(1, lr=lambda step: 0.25 - 0.1 * step)]
    with pytest.raises(UsageError, match=r"^at step 8: .*-0\.05"):
        Trained(sgd, falling, lr=0.1)

"""Steps inside of what `torch.compile` compiles: one graph, kept while the rate changes."""

import copy
import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import config
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters
from torch._dynamo.variables import ConstantVariable

import thalweg as tw
from thalweg import compilable
from thalweg.optim import CLASSES
from torch_parity.paths import MIRRORS, assert_close, assert_fused, noise, parameters, set_gradients
from torch_parity.table import Arguments, label, options, sign

CASES = [
    pytest.param(name, arguments, id=f"{name}-{label(arguments)}")
    for name in MIRRORS
    for arguments in (options(name)[0], options(name)[-1])
]

# torch's own, when a tensor that is no leaf, such as a loss, comes into a compiled region.
with_no_leaf = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a")


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    # torch 2.13 notes on its one None from where it has last read a gradient that was not there.
    ConstantVariable.create(None).source = None
    yield
    torch.compiler.reset()


def compiled(step: Callable[[], object], backend: str = "aot_eager") -> Callable[[], object]:
    return torch.compile(step, backend=backend, fullgraph=True)


def walked(
    params: list[Tensor],
    optimizer: torch.optim.Optimizer,
    step: Callable[[], object],
    way: int = 1,
) -> Tensor:
    """Some steps with a rate that changes; with the third no more is compiled."""
    path = []
    for t in range(6):
        set_gradients(params, t, way)
        if t < 2:
            step()
        else:
            for group in optimizer.param_groups:
                group["lr"] *= 0.7
            with torch.compiler.set_stance("fail_on_recompile"):
                step()
        path.append(torch.cat([p.detach().flatten() for p in params]))
    return torch.stack(path)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_step_is_one_graph(name: str, arguments: Arguments) -> None:
    paths = []
    for wrap in (compiled, lambda step: step):
        params = parameters()
        optimizer = CLASSES[name](params, **arguments)
        paths.append(walked(params, optimizer, wrap(optimizer.step), sign(arguments)))
        assert_fused(optimizer)
    assert torch.equal(*paths)
    assert not counters["graph_break"]


def network() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        for i, p in enumerate(layers.parameters()):
            p.copy_(0.5 * noise(0, i, p.shape, p.dtype))
    return layers


def training(optimizer: torch.optim.Optimizer, model: nn.Module) -> Callable[[], Tensor]:
    """Forward, backward, step: all that is done with a batch."""
    x = noise(0, 9, torch.Size([8, 3]), torch.float32)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def by_closure(optimizer: torch.optim.Optimizer, model: nn.Module) -> Callable[[], Tensor]:
    x = noise(0, 9, torch.Size([8, 3]), torch.float32)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        return loss.detach()

    return lambda: optimizer.step(closure)


def trained(optimizer: torch.optim.Optimizer, run: Callable[[], Tensor]) -> Tensor:
    """The losses, with a rate that changes once two steps have been compiled."""
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    losses = [run(), run()]
    with torch.compiler.set_stance("fail_on_recompile"):
        for _ in range(4):
            scheduler.step()
            losses.append(run())
    return torch.stack([loss.detach() for loss in losses])


def grouped(model: nn.Sequential) -> list[dict]:
    return [
        {"params": model[0].parameters(), "weight_decay": 0.1},
        {"params": model[2].parameters(), "lr": 0.02},
    ]


@pytest.mark.parametrize("kind", [training, by_closure])
@pytest.mark.parametrize("form", ["one group", "two groups"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam"])
@config.patch(trace_autograd_ops=True)
def test_training_is_one_graph(name: str, form: str, kind) -> None:
    losses = []
    for wrap in (compiled, lambda step: step):
        model = network()
        params = grouped(model) if form == "two groups" else model.parameters()
        optimizer = CLASSES[name](params, lr=0.1)
        losses.append(trained(optimizer, wrap(kind(optimizer, model))))
        assert_fused(optimizer)
    assert torch.equal(*losses)
    assert losses[0][-1] < losses[0][0]
    assert not counters["graph_break"]


@with_no_leaf
def test_only_backward_breaks_the_graph_where_it_is_not_traced() -> None:
    model = network()
    optimizer = tw.Adam(model.parameters())
    run = torch.compile(training(optimizer, model), backend="aot_eager")
    for _ in range(3):
        run()
    assert counters["graph_break"]
    assert all("Tensor.backward()" in reason for reason in counters["graph_break"])


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler of C++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when inductor is loaded
@config.patch(trace_autograd_ops=True)
def test_the_default_compiler_trains_the_same() -> None:
    losses = []
    for wrap in (lambda step: compiled(step, "inductor"), lambda step: step):
        model = network()
        optimizer = tw.AdamW(model.parameters(), lr=0.1)
        losses.append(trained(optimizer, wrap(training(optimizer, model))))
        assert_fused(optimizer)
    assert_close(losses[0], losses[1], 1e-5)


def test_parameters_without_gradient_stand_still() -> None:
    ends = []
    for wrap in (compiled, lambda step: step):
        params = parameters()
        optimizer = tw.Adam(params, lr=0.1)
        step = wrap(optimizer.step)
        for t in range(6):
            set_gradients(params, t)
            if t < 4:
                params[t].grad = None
            before = [p.detach().clone() for p in params]
            step()
            assert [*map(torch.equal, before, params)] == [t == i for i in range(4)]
        for p in params:
            p.grad = None
        step()
        ends.append(torch.cat([p.detach().flatten() for p in params]))
        assert [float(optimizer.state[p]["step"]) for p in params] == [5] * 4
    assert torch.equal(*ends)


def test_each_optimizer_steps_with_what_is_its_own() -> None:
    """Also one that is a copy of another, or has been made after another was forgotten."""

    def step(optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()

    run = torch.compile(step, backend="aot_eager", fullgraph=True)
    first = tw.Adam(parameters(), lr=0.1)
    optimizers = [first, copy.deepcopy(first), tw.Adam(parameters(), lr=0.3)]
    for optimizer in optimizers:
        (group,) = optimizer.param_groups
        for t in range(3):
            set_gradients(group["params"], t)
            run(optimizer)
    first_end, copied_end, other_end = (o.param_groups[0]["params"] for o in optimizers)
    assert all(map(torch.equal, first_end, copied_end))
    assert not any(map(torch.equal, first_end, other_end))


def test_a_checkpoint_may_be_loaded_between_compiled_steps() -> None:
    paths = []
    for wrap in (compiled, lambda step: step):
        params = parameters()
        optimizer = tw.Adam(params, lr=0.1)
        step = wrap(optimizer.step)
        for t in range(3):
            set_gradients(params, t)
            step()
        kept = copy.deepcopy(optimizer.state_dict())
        for t in range(3, 9):
            if t == 6:
                optimizer.load_state_dict(kept)
            set_gradients(params, t)
            step()
        paths.append(torch.cat([p.detach().flatten() for p in params]))
    assert torch.equal(*paths)


def loosely(step: Callable[[], object]) -> Callable[[], object]:
    """Compiled as far as it can be."""
    return torch.compile(step, backend="aot_eager")


@with_no_leaf
def test_a_scaler_is_heeded_in_compiled_training() -> None:
    """A step in which a gradient overflows is left out, and the scale is divided by."""
    ends = []
    for wrap in (loosely, lambda step: step):
        params, x = parameters()[:2], torch.ones(())
        optimizer = tw.SGD(params, lr=0.1, momentum=0.9, fused=True)
        by = torch.amp.GradScaler("cpu", init_scale=4.0)

        def step(params=params, x=x, optimizer=optimizer, by=by) -> None:
            optimizer.zero_grad()
            by.scale(sum((x * p**2).sum() for p in params)).backward()
            by.step(optimizer)
            by.update()

        run = wrap(step)
        for t in range(5):
            x.fill_(torch.inf if t == 2 else 1.0)
            run()
        ends.append(torch.cat([p.detach().flatten() for p in params]))
        assert by.get_scale() == 2.0
    assert torch.equal(*ends)
    assert ends[0].isfinite().all()


@config.patch(trace_autograd_ops=True)
def test_a_gradient_is_taken_where_the_rule_wants_it() -> None:
    ends = []
    for wrap in (loosely, lambda step: step):
        model = network()
        params = [*model.parameters()]
        optimizer = tw.Optimizer(params, tw.nag, lookahead=True, lr=0.1)
        run = wrap(by_closure(optimizer, model))
        for _ in range(3):
            run()
        ends.append(torch.cat([p.detach().flatten() for p in params]))
    assert torch.equal(*ends)
    start = torch.cat([p.detach().flatten() for p in network().parameters()])
    assert ends[0].ne(start).all()


@with_no_leaf
def test_gradients_flow_through_a_compiled_step() -> None:
    slopes = []
    for wrap in (loosely, lambda step: step):
        rate = torch.tensor(0.1, requires_grad=True)
        (start,) = parameters(shapes=[(3,)])
        w = start.clone()
        optimizer = tw.Adam([w], lr=rate, differentiable=True)
        w.grad = 2 * start
        wrap(optimizer.step)()
        slopes.append(torch.cat([g.view(-1) for g in torch.autograd.grad(w.sum(), (start, rate))]))
    assert_close(slopes[0], slopes[1], 1e-6)


def test_a_group_may_be_added_between_compiled_steps() -> None:
    ends = []
    for wrap in (compiled, lambda step: step):
        params = parameters()
        optimizer = tw.Adam(params[:2], lr=0.1)
        step = wrap(optimizer.step)
        for t in range(6):
            if t == 3:
                optimizer.add_param_group({"params": params[2:], "lr": 0.3})
            set_gradients(params, t)
            step()
        ends.append(torch.cat([p.detach().flatten() for p in params]))
    assert torch.equal(*ends)


def changed_on_the_way(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        for p in params:
            p.mul_(0.9)
            p.grad = 0.3 * p.detach() + 1
    optimizer.step()
    with torch.no_grad():
        for p in params:
            p.clamp_(-0.5, 0.5)


def stepped_twice(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    with torch.no_grad():
        for p in params:
            p.grad += p
    optimizer.step()


def averaged(params: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """The average is kept in the last parameter, which is not trained."""
    *trained, average = params
    average.grad = None
    optimizer.step()
    with torch.no_grad():
        average.lerp_(sum(p.detach().norm() for p in trained), 0.1)


@with_no_leaf
@pytest.mark.parametrize("act", [changed_on_the_way, stepped_twice, averaged])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when inductor is loaded
def test_a_step_stands_between_what_is_before_and_after_it(act, backend: str) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("there is no compiler of C++")
    ends = []
    for wrap in (lambda step: compiled(step, backend), lambda step: step):
        # torch 2.13 itself loses what is written to a float64 of no dimensions.
        params = parameters(torch.float64, [(3,), (2, 3), (1,)])
        optimizer = tw.SGD(params, lr=0.1, momentum=0.9)
        step = wrap(lambda params=params, optimizer=optimizer: act(params, optimizer))
        for t in range(4):
            set_gradients(params, t)
            step()
        ends.append(torch.cat([p.detach().flatten() for p in params]))
    assert_close(*ends, 1e-12)


def test_parameters_that_share_memory_are_stepped_in_turn() -> None:
    ends = []
    for wrap in (compiled, lambda step: step):
        whole = parameters(shapes=[(9,)])[0].detach()
        params = [whole[:6].requires_grad_(), whole[4:].requires_grad_()]
        optimizer = tw.Adam(params, lr=0.1)
        step = wrap(optimizer.step)
        for t in range(4):
            set_gradients(params, t)
            step()
        ends.append(whole)
    assert torch.equal(*ends)


def test_groups_may_be_exchanged_between_compiled_steps() -> None:
    ends = []
    for wrap in (compiled, lambda step: step):
        params = parameters()
        optimizer = tw.Adam(params[:2], lr=0.1)
        step = wrap(optimizer.step)
        for t in range(6):
            if t == 2:
                optimizer.param_groups = [{**group} for group in optimizer.param_groups]
            if t == 4:
                optimizer.add_param_group({"params": params[2:], "lr": 0.3})
            set_gradients(params, t)
            step()
        ends.append(torch.cat([p.detach().flatten() for p in params]))
    assert torch.equal(*ends)


@pytest.mark.parametrize("lr", [0.1, -1.0], ids=["a step", "an error"])
def test_a_step_of_copies_leaves_the_parameters_alone(lr: float) -> None:
    """A compiler may have what is newer than the parameters, which it writes to them later."""
    whole = parameters(shapes=[(9,)])[0].detach()
    params = [whole[:6].requires_grad_(), whole[4:].requires_grad_()]
    optimizer = tw.SGD(params, lr=0.1)
    optimizer.param_groups[0]["lr"] = lr
    before, newer = whole.clone(), 2 * whole
    copies, grads = [newer[:6], newer[4:]], [torch.ones(6), torch.ones(5)]
    steps = torch.tensor([1, 1, 1, 1, 2, 2, 1, 1, 1]) if lr > 0 else torch.zeros(9)
    try:
        torch.ops.thalweg.step(copies, grads, [0, 1], optimizer.known)
    except tw.UsageError:
        assert lr < 0
    assert_close(newer, 2 * before - 0.1 * steps, 1e-6)
    assert torch.equal(whole, before)
    assert [p.grad for p in params] == [None, None]


def test_a_break_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilable, "step", lambda *_: torch._dynamo.graph_break())
    params = parameters()
    set_gradients(params, 0)
    with pytest.raises(Unsupported):
        compiled(tw.Adam(params).step)()

"""What a training step costs with `train`, beside the shortest loop by hand and a DataLoader.

    python benchmarks/training_overhead.py                        all of it
    python benchmarks/training_overhead.py --rounds 30 fashion-mnist    the loop by hand, one task
    python benchmarks/training_overhead.py --rounds 3 dataloader
    python benchmarks/training_overhead.py parts

One thread, or as many as OMP_NUM_THREADS says. THALWEG_DATA names the folder of the data.
Contestants take turns, and times are given on the wall clock and as the processor's, which others
that use the machine disturb less.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from itertools import pairwise
from statistics import median, quantiles

# In every library, from the start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg as tw
from thalweg.tasks import Data, Task, load
from thalweg.tasks.evaluation import casting
from thalweg.training import Phase, train

ADAM: Callable[..., torch.optim.Optimizer] = partial(tw.Adam, lr=1e-3)
THEIRS: Callable[..., torch.optim.Optimizer] = partial(torch.optim.Adam, lr=1e-3)
# Steps in a round of each task, and rounds.
ROUNDS = {"fashion-mnist": (1000, 30), "cifar10": (12, 10)}


def by_hand(
    task: Task, make: Callable[..., torch.optim.Optimizer], data: Data, size: int
) -> Iterator[int]:
    """The shortest loop that trains as `train` does; yields the steps of each epoch."""
    model = task.model()
    optimizer = make(model.parameters())
    x, y = data.train
    augment, generator = task.augment, torch.Generator().manual_seed(0)
    cast = casting(task.precision, x.device) or nullcontext()
    while True:
        model.train()
        for rows in torch.randperm(len(x)).split(size):
            inputs, targets = x[rows], y[rows]
            if augment:
                inputs, targets = augment(inputs, targets, generator)
            optimizer.zero_grad()
            with cast:
                outputs = model(inputs)
            task.loss(outputs.float(), targets).backward()
            optimizer.step()
        yield -(-len(x) // size)


def by_train(
    task: Task, make: Callable[..., torch.optim.Optimizer], data: Data, size: int
) -> Iterator[int]:
    """The same with `train`; yields the steps of each epoch."""
    for _ in train(task, make, [Phase(10_000)], data=data, batch_size=size):
        yield -(-len(data.train[0]) // size)


def by_loader(
    task: Task, make: Callable[..., torch.optim.Optimizer], data: Data, size: int, workers: int = 0
) -> Iterator[int]:
    """A plain loop over PyTorch's DataLoader; yields the steps of each epoch."""
    model = task.model()
    optimizer = make(model.parameters())
    batches = DataLoader(
        TensorDataset(*data.train), batch_size=size, shuffle=True, num_workers=workers
    )
    while True:
        model.train()
        for inputs, targets in batches:
            optimizer.zero_grad()
            task.loss(model(inputs), targets).backward()
            optimizer.step()
        yield len(batches)


def in_turns(contestants: dict[str, Iterator[int]], rounds: int) -> dict[str, list[list[float]]]:
    """Microseconds per step of each round of each: those of the wall clock, and the processor's.

    The first round, in which everything is loaded and compiled, is not in it.
    """
    found: dict[str, list[list[float]]] = {name: [[], []] for name in contestants}
    for i in range(rounds + 1):
        # Who goes first changes, so that nobody always comes after the same one.
        names = list(contestants) if i % 2 else list(contestants)[::-1]
        for name in names:
            before = time.perf_counter(), time.process_time()
            steps = next(contestants[name])
            after = time.perf_counter(), time.process_time()
            for times, start, end in zip(found[name], before, after, strict=True):
                times += [1e6 * (end - start) / steps] if i else []
    return found


def spread(values: list[float], form: str) -> str:
    """The median, and the quartiles in brackets."""
    if len(values) < 2:
        return format(values[0], form)
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"{median(values):{form}} [{low:{form}} to {high:{form}}]"


def shown(found: dict[str, list[list[float]]], base: str, form: str) -> None:
    """Print the times of each, and how many times as long as the base's in the same round."""
    for clock, kind in enumerate(("wall clock", "processor")):
        for name, times in found.items():
            pairs = zip(times[clock], found[base][clock], strict=True)
            ratios = [a / b for a, b in pairs]
            print(
                f"  {kind:10}  {name:28} {spread(times[clock], '.1f')} us per step; "
                f"{spread(ratios, form)} of {base}",
                flush=True,
            )


def overhead(name: str, rounds: int) -> None:
    """`train` beside the loop by hand, on as many rows as make a round."""
    task = load(name)
    whole, rows = task.data(), ROUNDS[name][0] * task.batch_size
    # To evaluate on one sample takes next to no time, which counts as that of `train`.
    few = Data(
        train=(whole.train[0][:rows], whole.train[1][:rows]),
        validation=(whole.validation[0][:1], whole.validation[1][:1]),
    )
    print(f"{name}, batches of {task.batch_size}, {rounds} rounds of {ROUNDS[name][0]} steps")
    contestants = {
        "by hand": by_hand(task, ADAM, few, task.batch_size),
        "train": by_train(task, ADAM, few, task.batch_size),
    }
    shown(in_turns(contestants, rounds), "by hand", ".4f")


def loader(rounds: int, workers: tuple[int, ...] = (1, 2)) -> None:
    """`train` beside loops over a DataLoader, whole epochs of Fashion-MNIST."""
    task = load("fashion-mnist")
    whole = task.data()
    data = Data(whole.train, (whole.validation[0][:1], whole.validation[1][:1]))
    print(f"fashion-mnist, batches of 32, {rounds} epochs each, in turns")
    contestants = {
        "train, tw.Adam": by_train(task, ADAM, data, 32),
        "by hand, torch.optim.Adam": by_hand(task, THEIRS, data, 32),
        "DataLoader": by_loader(task, THEIRS, data, 32),
        **{f"DataLoader, {n} workers": by_loader(task, THEIRS, data, 32, n) for n in workers},
    }
    shown(in_turns(contestants, rounds), "train, tw.Adam", ".2f")


def parts(steps: int = 3000) -> None:
    """What a step is made of, with batches of 32 and of one sample."""
    task = load("fashion-mnist")
    whole = task.data()
    x, y = whole.train
    for size in (32, 1):
        for maker in (ADAM, THEIRS):
            model = task.model()
            optimizer = maker(model.parameters())
            times: list[list[float]] = []
            for rows in torch.randperm(len(x)).split(size)[:steps]:
                times.append(_timed(model, task.loss, optimizer, x, y, rows))
            names = ("batch", "zero_grad", "forward", "loss", "backward", "step")
            # Medians: steps that were interrupted, and the first, do not count.
            columns = [[1e6 * t for t in column] for column in zip(*times, strict=True)]
            each = [f"{n} {spread(c, '.1f')}" for n, c in zip(names, columns, strict=True)]
            kind = type(optimizer).__module__.split(".")[0]
            total = sum(median(column) for column in columns)
            print(f"by hand, batches of {size}, {kind}'s Adam: {total:.1f} us: {', '.join(each)}")
    rows = torch.randperm(len(x))[:2048]
    gathered = _microseconds(lambda: (x.index_select(0, rows), y.index_select(0, rows)), 200)
    print(f"gathering as train does, 64 batches at once: {gathered / 64:.1f} us per step")
    products = _microseconds(lambda: [torch.mm(*pair, out=out) for *pair, out in _products(32)])
    print(f"the step's matrix products alone, by torch.mm: {products:.1f} us")
    data = Data(whole.train, (whole.validation[0][:1], whole.validation[1][:1]))
    shown(in_turns({"train": by_train(task, ADAM, data, 32)}, 3), "train", ".2f")


@cache
def _products(size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Factors and a place for the result of each product that a step of the perceptron takes."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for i, (inputs, outputs) in enumerate(pairwise((784, 100, 100, 100, 10))):
        a, w, g = torch.ones(size, inputs), torch.ones(outputs, inputs), torch.ones(size, outputs)
        found += [(a, w.t(), torch.empty(size, outputs)), (g.t(), a, torch.empty(outputs, inputs))]
        # Nobody asks for the gradient of the images.
        found += [(g, w, torch.empty(size, inputs))] if i else []
    return found


def _microseconds(work: Callable[[], object], times: int = 3000) -> float:
    """The median of what it takes."""
    found: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(1e6 * (time.perf_counter() - start))
    return median(found)


def _timed(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    rows: Tensor,
) -> list[float]:
    clock = time.perf_counter
    times = [clock()]
    inputs, targets = x[rows], y[rows]
    times.append(clock())
    optimizer.zero_grad()
    times.append(clock())
    outputs = model(inputs)
    times.append(clock())
    value = loss(outputs, targets)
    times.append(clock())
    value.backward()
    times.append(clock())
    optimizer.step()
    times.append(clock())
    return [end - start for start, end in pairwise(times)]


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help=f"of {', '.join(ROUNDS)}, dataloader, parts")
    parser.add_argument("--rounds", type=int, help="how often each contestant has its turn")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread of {os.cpu_count()} cores")
    for what in given.what or [*ROUNDS, "dataloader", "parts"]:
        if what == "parts":
            parts()
        elif what == "dataloader":
            loader(given.rounds or 3)
        else:
            overhead(what, given.rounds or ROUNDS[what][1])


if __name__ == "__main__":
    main()

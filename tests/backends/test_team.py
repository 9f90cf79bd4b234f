"""Kernels run on torch's own threads: as many as torch may use, none beside them, also in forks."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg import rules
from thalweg.backends import compilation, fused, team

LINUX = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
OPENMP = pytest.mark.skipif(team._parallel() is None, reason="torch is built without OpenMP")
LARGE = 200_001
"""Elements of float32 with a state or two that are worth more than one thread."""


@pytest.fixture(autouse=True)
def threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# Each thread that calls it adds one to the job's first word, and then waits for the number that
# is in the second, so that no thread can come in another's place.
COUNTING = """
define void @kernel(ptr %job) {
entry:
  %before = atomicrmw add ptr %job, i64 1 seq_cst
  %wanted.at = getelementptr i64, ptr %job, i64 1
  %wanted = load i64, ptr %wanted.at
  br label %wait
wait:
  %come = load atomic i64, ptr %job seq_cst, align 8
  %all = icmp uge i64 %come, %wanted
  br i1 %all, label %done, label %wait
done:
  ret void
}
"""


@OPENMP
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_kernel_runs_on_as_many_threads_as_are_asked_for(count: int) -> None:
    job = np.array([0, count, 0, 0, 0], np.int64)
    team.run(compilation.address(COUNTING), job.ctypes.data, count)
    assert job[0] == count


def test_without_openmp_a_kernel_runs_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team, "_parallel", lambda: None)
    job = np.array([0, 1, 0, 0, 0], np.int64)
    team.run(compilation.address(COUNTING), job.ctypes.data, 4)
    assert job[0] == 1


def trained(
    sizes: list[int], made: Callable[[list[Tensor]], tw.Optimizer], steps: int = 3
) -> list[Tensor]:
    """Parameters of these sizes after some steps."""
    generator = torch.Generator().manual_seed(sum(sizes))
    params = [torch.randn(n, generator=generator).requires_grad_() for n in sizes]
    optimizer = made(params)
    for t in range(steps):
        for p in params:
            p.grad = p.detach() * 0.5 + 0.1 * t
        optimizer.step()
    return [p.detach() for p in params]


def adam(params: list[Tensor]) -> tw.Optimizer:
    return tw.Adam(params, lr=0.1, weight_decay=0.1, backend="fused")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads that passes ask for."""
    numbers: list[int] = []
    run = team.run

    def noted(kernel: int, job: int, threads: int) -> None:
        numbers.append(threads)
        run(kernel, job, threads)

    monkeypatch.setattr(team, "run", noted)
    return numbers


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_step_uses_the_threads_that_torch_may_use(asked: list[int], count: int) -> None:
    torch.set_num_threads(count)
    trained([LARGE, 5, LARGE], adam)
    assert asked == [count] * 3


def test_the_number_of_threads_may_change_between_steps(asked: list[int]) -> None:
    def changing(params: list[Tensor]) -> tw.Optimizer:
        optimizer = adam(params)
        counts = iter([1, 4, 2])
        optimizer.register_step_pre_hook(lambda *_: torch.set_num_threads(next(counts)))
        return optimizer

    torch.set_num_threads(3)
    ends = trained([LARGE], changing)
    assert asked == [1, 4, 2]
    assert torch.equal(ends[0], trained([LARGE], adam)[0])


@pytest.mark.parametrize("sizes", [[1], [1000, 3], [100] * 50, [20_000]], ids=str)
def test_little_is_done_by_one_thread(asked: list[int], sizes: list[int]) -> None:
    torch.set_num_threads(4)
    trained(sizes, adam)
    assert asked == [1] * 3


MADE: dict[str, Callable[[list[Tensor]], tw.Optimizer]] = {
    "SGD": lambda params: tw.SGD(params, lr=0.1, backend="fused"),
    "Adam": adam,
    "AggMo": lambda params: tw.AggMo(params, lr=0.1, backend="fused"),
    "noise": lambda params: tw.Optimizer(
        params, rules.chain(rules.noise, rules.momentum), backend="fused"
    ),
}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("sizes", [[LARGE], [70_001, 1, 0, 130_000, 65_536, 4_097]], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(name: str, sizes: list[int]) -> None:
    ends = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        ends.append(trained(sizes, MADE[name]))
    for end in ends[1:]:
        assert all(map(torch.equal, end, ends[0]))


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_results_do_not_depend_on_the_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained([5_003, 1, 77], adam)
    torch.set_num_threads(3)
    monkeypatch.setattr(fused, "_ALONE", 0)
    monkeypatch.setattr(fused, "_LEAST_CHUNK", chunk)
    monkeypatch.setattr(fused, "_CHUNK", chunk)
    assert all(map(torch.equal, trained([5_003, 1, 77], adam), expected))


def test_optimizers_may_step_in_several_python_threads_at_once() -> None:
    names = [*MADE] * 2
    expected = [trained([LARGE - i, i], MADE[name], 10) for i, name in enumerate(names)]
    found: list[list[Tensor]] = [[]] * len(names)
    together = threading.Barrier(len(names))

    def work(i: int, name: str) -> None:
        together.wait(60)
        found[i] = trained([LARGE - i, i], MADE[name], 10)

    workers = [threading.Thread(target=work, args=pair) for pair in enumerate(names)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    for mine, right in zip(found, expected, strict=True):
        assert all(map(torch.equal, mine, right))


PRELUDE = """
import multiprocessing, os, sys, threading, time
from pathlib import Path
import torch

def tasks():
    return len([*Path("/proc/self/task").iterdir()])

def busy():
    # An operation of torch's own on all of its threads.
    return torch.rand(2_000_000).mul_(2).sum()

def train(steps=5, first=0):
    # Together these are worth a team; torch's own operations take each on one thread.
    import thalweg
    params = [torch.linspace(-1, 1, 5_000 + i).requires_grad_() for i in range(first, first + 60)]
    optimizer = thalweg.Adam(params, lr=0.1, backend="fused")
    for t in range(steps):
        for p in params:
            p.grad = p.detach() * 0.5 + 0.1 * t
        optimizer.step()
    return sum(p.detach().double().sum().item() for p in params)
"""


# To import torch, and what torch imports for its first optimizer, takes longer than a script: one
# process does it for all, and is forked before it has any threads.
STARTER = """
import os, runpy, signal, sys
import torch, torch._dynamo

for line in sys.stdin:
    path, _ = line.split("\\n")
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(60)
        for number, kind in (1, "out"), (2, "err"):
            os.dup2(os.open(f"{path}.{kind}", os.O_WRONLY | os.O_CREAT), number)
        runpy.run_path(path, run_name="__main__")
        break
    _, status = os.waitpid(child, 0)
    try:
        # What it has started would wait for ever too.
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    print(status, flush=True)
"""


Script = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def starter() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", STARTER],
        env={**os.environ, "OMP_NUM_THREADS": "3"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


@pytest.fixture
def script(tmp_path: Path, starter: subprocess.Popen[str]) -> Script:
    """What a script prints, line by line; one that waits for ever fails."""
    path = tmp_path / "script.py"

    def run(code: str) -> list[str]:
        path.write_text(PRELUDE + code)
        assert starter.stdin is not None
        assert starter.stdout is not None
        starter.stdin.write(f"{path}\n")
        starter.stdin.flush()
        status = starter.stdout.readline()
        assert status == "0\n", Path(f"{path}.err").read_text()
        return Path(f"{path}.out").read_text().splitlines()

    return run


@LINUX
@OPENMP
def test_no_thread_is_started_beside_torchs(script: Script) -> None:
    lines = script(
        """
before = tasks()
busy()
print(tasks() - before)
train(50)
print(tasks() - before)
busy(); train(10); busy()
torch.set_num_threads(2)
train(10); busy(); train(10)
print(tasks() - before)
""",
    )
    # Of a team of three, one is the thread that calls.
    assert lines == ["2", "2", "2"]


@LINUX
@OPENMP
def test_torchs_threads_are_those_that_a_step_has_started(script: Script) -> None:
    lines = script(
        """
before = tasks()
train()
print(tasks() - before)
busy()
print(tasks() - before)
""",
    )
    assert lines == ["2", "2"]


@LINUX
def test_one_thread_wakes_no_pool(script: Script) -> None:
    lines = script(
        """
torch.set_num_threads(1)
before = tasks()
train(20)
print(tasks() - before)
""",
    )
    assert lines == ["0"]


FORKS = """
def report(pipe):
    os.write(pipe, f"{train()!r} {tasks() - 1}\\n".encode())

def forked(depth=1):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if depth > 1:
                forked(depth - 1)
            report(write)
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as file:
        print(*file.read().split())
    os.waitpid(child, 0)

busy()
print(train())
forked()
# The child's team is not the parent's: both go on.
print(train())
forked(2)
print(train())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_trains_on_one_thread(script: Script) -> None:
    before, child, after, *rest = script(FORKS)
    assert child.split()[0] == before == after
    if Path("/proc/self/task").exists():
        assert child.split()[1] == "0"
    assert len(rest) == 3
    assert {line.split()[0] for line in rest} == {before}


WORKERS = """
def work(queue):
    queue.put(train())

if __name__ == "__main__":
    busy()
    {mine}
    context = multiprocessing.get_context({method!r})
    queue = context.Queue()
    workers = [context.Process(target=work, args=(queue,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    {mine}
    found = [queue.get(timeout=40) for _ in workers]
    for worker in workers:
        worker.join(40)
    print([worker.exitcode for worker in workers])
    print([one == train() for one in found])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(
    ("method", "mine"),
    [
        ("fork", "train()"),
        # The package is imported first in the child, where the parent's team cannot be.
        ("fork", "busy()"),
        ("spawn", "train()"),
        ("forkserver", "train()"),
    ],
)
def test_worker_processes_train_beside_their_parent(script: Script, method: str, mine: str) -> None:
    code = WORKERS.format(method=method, mine=mine)
    assert script(code) == ["[0, 0]", "[True, True]"]


LOADER = """
from torch.utils.data import DataLoader, Dataset

class Trained(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.tensor(train(3, i), dtype=torch.float64)

if __name__ == "__main__":
    mine = train()
    expected = [train(3, i) for i in range(4)]
    loader = DataLoader(Trained(), batch_size=1, num_workers=2, multiprocessing_context={method!r})
    found = []
    for item in loader:
        found.append(item.item())
        print(train() == mine)
    print(found == expected)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_of_a_data_loader_may_train(script: Script, method: str) -> None:
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("forks")
    assert script(LOADER.format(method=method)) == ["True"] * 5

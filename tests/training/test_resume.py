"""A run that was interrupted, at whatever moment, ends as if it had not been: bit for bit.

As a program, it trains in processes that it kills, and prints what became of them.
`THALWEG_FUZZ=3` makes three times as many of them.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg import Data, Record, Task
from thalweg.schedules import cosine, linear
from thalweg.training import Interrupted, Phase, train
from thalweg.training.folder import Folder, read_records
from thalweg.training.run import Run

SAMPLES, PER_EPOCH = 50, 7
KILLS, LONGER = 8 * int(os.environ.get("THALWEG_FUZZ", "1")), 4


def nothing() -> None:
    """Takes place in every step, and in every evaluation, where a test wants something to."""


in_step: Callable[[], None] = nothing
in_evaluation: Callable[[], None] = nothing


def data() -> Data:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(SAMPLES + 20, 4, generator=generator)
    y = x[:, :2] * x[:, 2:]
    return Data((x[:SAMPLES], y[:SAMPLES]), (x[SAMPLES:], y[SAMPLES:]))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 2)
    )


def augment(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws from everything there is to draw from, and now and then gives a target of NaN."""
    in_step()
    noise = torch.randn(x.shape, generator=generator) + torch.randn(x.shape)
    x = x + 0.1 * noise + 0.1 * random.random() + 0.1 * float(np.random.normal())
    unlucky = float(torch.rand((), generator=generator)) < 0.15
    return x, torch.full_like(y, torch.nan) if unlucky else y


def metric(outputs: Tensor, targets: Tensor) -> Tensor:
    torch.rand(3)
    in_evaluation()
    return (outputs - targets).abs().mean()


TASK = Task("products", data, network, nn.functional.mse_loss, metric, "distance", augment=augment)


def phases(longer: int, **last: Any) -> list[Phase]:
    return [
        Phase(0.9 * longer, freeze="body", lr=1e-2),
        Phase(1.1 * longer, freeze="0.bias", lr=(1e-3, 3e-3, linear(1e-2, 1e-3))),
        Phase(longer, lr=tw.one_cycle(1e-2), beta1=tw.one_cycle_momentum(), **last),
    ]


def noisy(params: Any, longer: int) -> torch.optim.Optimizer:
    rule = tw.chain(tw.noise(), tw.adam, tw.decay)
    return tw.Optimizer(params, rule, beta2=linear(0.9, 0.99, 3 * PER_EPOCH * longer))


def adamw(params: Any, longer: int) -> torch.optim.Optimizer:
    return tw.AdamW(params, weight_decay=cosine(0.1, 0.01, 3 * PER_EPOCH * longer))


def torchs(params: Any, longer: int) -> torch.optim.Optimizer:
    return torch.optim.NAdam(params, weight_decay=0.1)


OPTIMIZERS: dict[str, tuple[Any, dict[str, str], dict[str, Any]]] = {
    "noisy": (noisy, {}, {"ema": 0.9, "nonfinite": "skip"}),
    "adamw": (adamw, {"decay": "l2"}, {"swa": 1, "nonfinite": "shrink"}),
    "torch": (torchs, {}, {"ema": 0.5, "reshuffle": False, "nonfinite": "skip"}),
}


def run(name: str, out: Path, seed: int = 0, longer: int = 1, **options: Any) -> Iterator[Record]:
    optimizer, last, recipe = OPTIMIZERS[name]
    random.seed(seed)
    np.random.seed(seed)
    return train(
        TASK,
        lambda params: optimizer(params, longer),
        phases(longer, **last),
        **{"save_every": 0.0, "out": out, **options},
        batch_size=4,
        accumulate=2,
        seed=3,
        clip_norm=1.0,
        evaluate_every=0.3,
        **recipe,
    )


def told(records: list[Record]) -> list[str]:
    """All that records say, but the time taken; as text, in which NaN equals NaN."""
    return [str(asdict(replace(r, seconds=0.0))) for r in records]


def model(out: Path) -> dict[str, Tensor]:
    return torch.load(out / "model.pt", weights_only=True)


def assert_same(out: Path, records: list[Record], whole: Path, expected: list[Record]) -> None:
    for record, other in zip(told(records), told(expected), strict=True):
        assert record == other
    found, wanted = model(out), model(whole)
    assert found.keys() == wanted.keys()
    for key, x in found.items():
        assert torch.equal(x, wanted[key]), key
    kept = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [k["steps"] for k in kept] == [r.steps for r in expected]
    assert not list(out.rglob("*.part"))


@pytest.fixture(scope="module", params=OPTIMIZERS)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, list[Record]]:
    """A run that nothing has interrupted."""
    out = tmp_path_factory.mktemp("whole") / request.param
    records = list(run(request.param, out, save_every=60.0))
    assert records[-1].steps == 3 * PER_EPOCH
    assert records[-1].skipped
    assert len(records) == 10
    return request.param, out, records


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes back what a test has put in the place of `nothing`."""
    for name in ("in_step", "in_evaluation"):
        monkeypatch.setattr(sys.modules[__name__], name, nothing)
    # It takes long, and makes a difference only where power fails.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Once:
    """Does something at its first call, or at a later one."""

    def __init__(self, act: Callable[[], None], at: int = 1) -> None:
        self._act, self.left = act, at

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self._act()


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def ended(records: Iterator[Record]) -> list[Record] | None:
    """The records of a run; None if it was interrupted."""
    try:
        return list(records)
    except Interrupted:
        return None


def until_done(begin: Callable[[int], Iterator[Record]]) -> tuple[int, list[Record]]:
    """How often a run was interrupted, and its records at last."""
    for times in range(100):
        if (records := ended(begin(times))) is not None:
            return times, records
    raise AssertionError("no end to it")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_at_every_step(
    whole: tuple[str, Path, list[Record]],
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, finished, expected = whole
    out = tmp_path / "run"

    def begin(times: int) -> Iterator[Record]:
        monkeypatch.setattr(sys.modules[__name__], "in_step", Once(lambda: send(number)))
        return run(name, out, times, resume=True, save_every=60.0)

    times, records = until_done(begin)
    assert times == 3 * PER_EPOCH
    assert_same(out, records, finished, expected)


@pytest.mark.parametrize("step", range(1, 3 * PER_EPOCH + 1, 4))
def test_a_signal_at_one_step(
    whole: tuple[str, Path, list[Record]],
    step: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, finished, expected = whole
    monkeypatch.setattr(sys.modules[__name__], "in_step", Once(send, step))
    with pytest.raises(Interrupted, match="SIGINT"):
        list(run(name, tmp_path / "run", save_every=60.0))
    assert [p.name[:8] for p in (tmp_path / "run" / "snapshots").iterdir()] == [f"{step:08}"]
    assert_same(
        tmp_path / "run", list(run(name, tmp_path / "run", 1, resume=True)), finished, expected
    )


def test_a_loop_that_is_left_after_every_record(
    whole: tuple[str, Path, list[Record]], tmp_path: Path
) -> None:
    name, finished, expected = whole
    for count in range(1, len(expected) + 1):
        records = run(name, tmp_path / "run", count - 1, resume=True, save_every=60.0)
        found = [next(records) for _ in range(count)]
        records.close()
        assert told(found) == told(expected[:count])
    records = list(run(name, tmp_path / "run", resume=True))
    assert_same(tmp_path / "run", records, finished, expected)


@pytest.mark.parametrize("step", range(1, 3 * PER_EPOCH + 1, 4))
def test_an_error_in_a_step_goes_on_from_the_snapshot_before_it(
    whole: tuple[str, Path, list[Record]],
    step: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, finished, expected = whole

    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules[__name__], "in_step", Once(fail, step))
    with pytest.raises(ZeroDivisionError):
        list(run(name, tmp_path / "run"))
    records = list(run(name, tmp_path / "run", resume=True))
    assert_same(tmp_path / "run", records, finished, expected)


def test_signals_in_every_evaluation(
    whole: tuple[str, Path, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, finished, expected = whole
    out = tmp_path / "run"

    def begin(times: int) -> Iterator[Record]:
        # The evaluation that was interrupted is done again first.
        monkeypatch.setattr(sys.modules[__name__], "in_evaluation", Once(send, 1 + (times > 0)))
        return run(name, out, times, resume=True, save_every=60.0)

    times, records = until_done(begin)
    assert times == len(expected)
    assert_same(out, records, finished, expected)


def test_a_signal_between_an_evaluation_and_its_record(
    whole: tuple[str, Path, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, finished, expected = whole
    recorded, append = Run.recorded_as, Folder.append
    for i, at in enumerate(("before", "after", "written")):
        left = Once(send, 4)

        def recorded_as(*args: Any, at: str = at, left: Once = left) -> Record:
            if at == "before":
                left()
            record = recorded(*args)
            if at == "after":
                left()
            return record

        def appended(*args: Any, at: str = at, left: Once = left) -> None:
            append(*args)
            if at == "written":
                left()

        monkeypatch.setattr(Run, "recorded_as", recorded_as)
        monkeypatch.setattr(Folder, "append", appended)
        out = tmp_path / str(i)
        assert ended(run(name, out, save_every=60.0)) is None
        records = list(run(name, out, 1, resume=True))
        assert_same(out, records, finished, expected)


@pytest.mark.parametrize("signals", [1, 2])
def test_signals_in_every_save(
    whole: tuple[str, Path, list[Record]],
    signals: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, finished, expected = whole
    save, out = torch.save, tmp_path / "run"

    def begin(times: int) -> Iterator[Record]:
        def act() -> None:
            for _ in range(signals):
                send()

        # A second signal does not wait, so that this snapshot is lost: let one be made before it.
        acting = Once(act, signals)

        def saved(*args: Any) -> None:
            acting()
            save(*args)

        monkeypatch.setattr(torch, "save", saved)
        return run(name, out, times, resume=True)

    times, records = until_done(begin)
    assert times >= 3 * PER_EPOCH - 1
    assert_same(out, records, finished, expected)


# Killed:


def finish(out: Path, longer: int) -> None:
    list(run("noisy", out, longer=longer, resume=True))


def forked(of: Callable[[], None]) -> int:
    process = os.fork()
    if process == 0:
        try:
            of()
        finally:
            os._exit(0)
    return process


def killed(out: Path, longer: int, draws: random.Random) -> dict[str, Any]:
    """Go on with the run in a process that is killed after some steps, or at some fsync."""
    read, write = os.pipe()

    def begin(fsyncs: int | None) -> None:
        global in_step

        def slow() -> None:
            os.write(write, b".")
            time.sleep(0.002)

        in_step = slow
        if fsyncs is not None:
            at = Once(lambda: send(signal.SIGKILL), fsyncs)
            os.fsync = lambda descriptor: at()
        finish(out, longer)

    if draws.random() < 0.5:
        fsyncs = draws.randint(1, 30)
        os.waitpid(forked(lambda: begin(fsyncs)), 0)
        how = f"fsync {fsyncs}"
    else:
        process = forked(lambda: begin(None))
        for _ in range(draws.randint(1, 6)):
            os.read(read, 1)
        time.sleep(draws.uniform(0, 0.02))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        how = "time"
    os.close(read)
    os.close(write)
    snapshots = sorted(p.name[:8] for p in out.glob("snapshots/*.pt"))
    status = json.loads((out / "run.json").read_text())["status"] if snapshots else "running"
    return {
        "how": how,
        "step": int(snapshots[-1]) if snapshots else 0,
        "in a save": bool(list(out.rglob("*.part"))),
        "status": status,
    }


def main(folder: Path) -> None:
    draws, longer = random.Random(9), LONGER * KILLS // 8
    os.fsync = lambda descriptor: None
    # What is imported here need not be in each process that is forked.
    finish(folder / "whole", longer)
    for _ in range(KILLS):
        print(json.dumps(killed(folder / "killed", longer, draws)), flush=True)
    os.waitpid(forked(lambda: finish(folder / "killed", longer)), 0)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert [k["status"] for k in kills] == ["running"] * KILLS
    assert len({k["step"] for k in kills}) > KILLS / 2
    assert any(k["in a save"] for k in kills)
    whole, found = (read_records(tmp_path / name) for name in ("whole", "killed"))
    assert_same(tmp_path / "killed", found, tmp_path / "whole", whole)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

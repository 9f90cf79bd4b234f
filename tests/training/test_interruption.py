"""Signals: taken where nothing is lost by them."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from thalweg import Data, Task, train
from thalweg.training.interruption import Interrupted, signals


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_waits_and_the_second_does_not(number: int) -> None:
    with signals() as caught:
        assert caught.received is None
        send(number)
        assert caught.received == number
        with pytest.raises(Interrupted, match=signal.Signals(number).name) as error:
            send(number)
        assert error.value.number == number
        assert isinstance(error.value, KeyboardInterrupt)


def test_where_it_is_raised_at_once_it_is_saved_first() -> None:
    saved: list[str] = []
    with signals() as caught:
        with pytest.raises(Interrupted), caught.raised(lambda: saved.append("")):
            send()
        assert saved == [""]
        assert not caught.at_once
        # One that has come before is raised as soon as that is entered.
        with pytest.raises(Interrupted), caught.raised(lambda: saved.append("")):
            raise AssertionError("went on")
        assert len(saved) == 2


def test_without_a_signal_nothing_is_saved() -> None:
    saved: list[str] = []
    with signals() as caught:
        with caught.raised(lambda: saved.append("")):
            pass
        with pytest.raises(ZeroDivisionError), caught.raised(lambda: saved.append("")):
            raise ZeroDivisionError
        send()
    assert saved == []


def test_what_was_there_before_is_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(n) for n in numbers]
    with signals() as caught:
        assert [signal.getsignal(n) for n in numbers] == [caught, caught]
    assert [signal.getsignal(n) for n in numbers] == before
    with signals(wanted=False):
        assert [signal.getsignal(n) for n in numbers] == before


def task() -> Task:
    x = torch.zeros(8, 1)

    def metric(outputs: Tensor, targets: Tensor) -> float:
        return 0.0

    return Task(
        "zeros",
        lambda: Data((x, x), (x, x)),
        lambda: nn.Linear(1, 1),
        nn.functional.mse_loss,
        metric,
    )


def test_a_run_in_another_thread_does_without(tmp_path: Path) -> None:
    done: list[int] = []

    def run() -> None:
        records = train(
            task(), lambda p: torch.optim.SGD(p, lr=0.1), epochs=2, out=tmp_path / "run"
        )
        done.extend(record.steps for record in records)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [1, 2]


def test_between_records_and_afterwards_signals_are_left_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    for out in (None, tmp_path / "run"):
        records = train(task(), lambda p: torch.optim.SGD(p, lr=0.1), epochs=2, out=out)
        next(records)
        assert signal.getsignal(signal.SIGINT) is before
        records.close()
        assert signal.getsignal(signal.SIGINT) is before

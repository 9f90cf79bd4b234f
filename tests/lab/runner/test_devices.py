"""What workers are given to train on, with GPUs that are only pretended."""

from pathlib import Path

import pytest
import torch

from thalweg.errors import UsageError
from thalweg.lab.runner import devices as module
from thalweg.lab.runner.devices import devices, workers


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has the trace of a GPU where a file of that name is made, and of two if torch is asked."""
    monkeypatch.setattr(module, "_TRACES", (str(tmp_path / "gpu"),))
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(module, "cores", lambda: 9)
    return tmp_path / "gpu"


def test_torch_is_not_asked_where_no_gpu_seems_to_be(machine: Path):
    assert devices(None) == (None,)
    machine.touch()
    assert devices(None) == ("cuda:0", "cuda:1")


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "mps"])
def test_a_device_that_is_asked_for_is_taken(machine: Path, device: str):
    machine.touch()
    assert devices(device) == (device,)


def test_cuda_is_every_gpu(machine: Path, monkeypatch: pytest.MonkeyPatch):
    assert devices("cuda") == ("cuda:0", "cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="torch finds no GPU"):
        devices("cuda")
    machine.touch()
    assert devices(None) == (None,)


def test_a_worker_for_each_gpu_or_core(machine: Path):
    assert workers(("cuda:0", "cuda:1"), 1) == 2
    assert workers((None,), 1) == workers(("cpu",), 1) == 9
    assert workers((None,), 2) == 4
    assert workers((None,), 20) == 1

"""Memory that a call needs while it runs."""

import sys
from pathlib import Path

import pytest
import torch

from thalweg.bench import memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
MIB = 2**18  # numbers of float32


@linux
def test_growth_is_what_was_allocated_at_most():
    def two_at_once_then_one() -> None:
        # Larger than what the allocator keeps for itself when it is freed.
        x = torch.ones(64 * MIB)
        y = x + 1
        del x, y
        torch.ones(64 * MIB)

    for _ in range(3):
        assert memory.peak_growth(two_at_once_then_one) == pytest.approx(128, abs=3)


@linux
def test_nothing_is_nothing_and_an_earlier_peak_is_forgotten():
    torch.ones(64 * MIB)
    growth = memory.peak_growth(int)
    assert growth is not None
    assert growth < 1


@linux
def test_what_was_freed_before_does_not_hide_what_is_taken():
    kept = [torch.ones(1000) for _ in range(10_000)]  # 38 MiB in small pieces
    del kept
    growth = memory.peak_growth(lambda: [torch.ones(1000) for _ in range(10_000)])
    assert growth is not None
    assert growth > 19


@linux
def test_available_memory():
    free = memory.available()
    assert free is not None
    assert 2**24 < free < 2**50


def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_PROCESS", tmp_path)
    assert memory.peak_growth(int) is None
    (tmp_path / "status").write_text("VmSize: 1 kB\n")
    assert memory.peak_growth(int) is None

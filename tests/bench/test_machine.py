"""What is said of the machine."""

import os
from pathlib import Path

import pytest
import torch

from thalweg.bench import machine


def test_it_is_this_machine():
    facts = machine.description()
    assert facts["torch"] == f"{torch.__version__}, threads: {torch.get_num_threads()}"
    assert int(facts["cores"]) <= (os.cpu_count() or 1)
    assert facts["processor"]
    assert all(facts.values())


def test_facts_are_read_as_linux_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "2048K")]
    ):
        cache = tmp_path / f"index{index}"
        cache.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (cache / name).write_text(value + "\n")
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(machine, "_CPU", tmp_path)
    monkeypatch.setattr(machine, "_HUGE_PAGES", tmp_path / "enabled")
    facts = machine.description()
    assert facts["caches"] == "L1 48KiB, L2 2048KiB"
    assert facts["huge pages"] == "madvise"
    monkeypatch.setattr(machine, "_CPU", tmp_path / "none")
    monkeypatch.setattr(machine, "_HUGE_PAGES", tmp_path / "none")
    assert {"caches", "huge pages"}.isdisjoint(machine.description())


def test_what_other_processes_take_is_what_the_machine_did_and_we_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    statistics = tmp_path / "stat"
    monkeypatch.setattr(machine, "_STATISTICS", statistics)
    assert machine.others_seconds() is None
    ticks = os.sysconf("SC_CLK_TCK")
    own = 7.0
    monkeypatch.setattr(machine, "process_time", lambda: own)
    # user nice system idle waiting interrupts interrupts stolen guest guest
    seconds = (5, 1, 2, 1000, 500, 3, 4, 6, 90, 90)
    text = " ".join(str(n * ticks) for n in seconds)
    statistics.write_text(f"cpu  {text}\ncpu0 {text}\n")
    assert machine.others_seconds() == pytest.approx(5 + 1 + 2 + 3 + 4 + 6 - own)

"""What is written down of the machine and the code."""

import getpass
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import psutil
import pytest

import thalweg
from thalweg.lab.runner import session as module
from thalweg.lab.runner.session import cores, session
from thalweg.lab.runner.worker import Loaded
from thalweg.lab.study import TaskFacts

FACTS = TaskFacts("digits", "", "accuracy", True, 1, 32, None)


def loaded(spec: str, gpu: str = "", **identity: Mapping[str, str]) -> dict[str, Loaded]:
    return {spec: Loaded(spec, FACTS, identity, gpu)}


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 6}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_a_session_is_what_a_repetition_needs():
    found = session({**loaded("a", "H100"), **loaded("b", "H100"), **loaded("c")})
    assert found["thalweg"] == thalweg.__version__
    assert found["Python"] == platform.python_version()
    assert {"torch", "numpy", "system"} <= found.keys()
    assert found["processor"].endswith(f", {cores()} cores")
    gib = psutil.virtual_memory().total / 2**30
    assert found["memory"] == f"{gib:.1f} GiB"
    assert found["GPU"] == "H100"
    assert "GPU" not in session(loaded("c"))
    started = datetime.fromisoformat(found["started"])
    assert 0 <= (datetime.now(timezone.utc) - started).total_seconds() < 60


def test_a_session_tells_the_state_of_the_code(tmp_path: Path):
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(done, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "own.py"
    spec = f"{file}:task"
    here = loaded(spec, code={"own.py": "0123"})
    assert f"git of {spec}" not in session(here)
    git("init", "-q")
    file.write_text("task = 1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    found = session(here)
    assert found[f"code of {spec}"] == '{"own.py": "0123"}'
    assert found[f"git of {spec}"] == git("rev-parse", "HEAD")
    file.write_text("task = 2\n")
    assert session(here)[f"git of {spec}"] == f"{git('rev-parse', 'HEAD')}, changed since"


def test_a_session_says_nothing_of_whose_machine_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/secret/place/thalweg", "compare"])
    monkeypatch.setenv("SECRET_TOKEN", "xyzzy-12345")
    text = " ".join(session(loaded("digits")).values())
    assert "xyzzy" not in text
    assert "/secret/place" not in text
    folders = (str(Path.home()), str(Path.cwd()), sys.prefix, str(Path(thalweg.__file__).parent))
    for folder in folders:
        assert folder not in text or folder == "/"
    assert {getpass.getuser(), socket.gethostname()}.isdisjoint(text.split())


class CpuInfo:
    """Stands in for the file in which Linux describes its processors."""

    text: str | None = None

    def __init__(self, path: str) -> None:
        self.parent = Path()
        assert path in ("/proc/cpuinfo", module.__file__)

    def read_text(self) -> str:
        if self.text is None:
            raise FileNotFoundError
        return self.text


def test_processor_has_a_name_everywhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "Path", CpuInfo)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert session({})["processor"] == f"riscv64, {cores()} cores"
    monkeypatch.setattr(CpuInfo, "text", "flags\t: a\nmodel name\t: Fast One: 3\n")
    assert session({})["processor"] == f"Fast One: 3, {cores()} cores"

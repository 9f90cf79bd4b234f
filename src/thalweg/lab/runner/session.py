"""Where and with what a comparison is run, for whoever repeats it."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import psutil

from thalweg.lab.runner.memory import words
from thalweg.lab.runner.worker import Loaded

__all__ = ["cores", "session"]


def session(loaded: Mapping[str, Loaded]) -> dict[str, str]:
    """Versions, hardware, and the state of the code, by name.

    Args:
        loaded: the tasks, by their spec. `code of TASK` is the start of the SHA-256 of each file
            that a task is defined in; `git of TASK` the commit that a task of one's own was at.
    """
    found = {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **{name: version(name) for name in ("thalweg", "torch", "numpy")},
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{_processor()}, {cores()} cores",
        "memory": words(psutil.virtual_memory().total),
    }
    if gpus := sorted({task.gpu for task in loaded.values() if task.gpu}):
        found["GPU"] = ", ".join(gpus)
    if commit := _commit(Path(__file__).parent):
        found["git of thalweg"] = commit
    for spec, task in loaded.items():
        if code := task.identity.get("code"):
            found[f"code of {spec}"] = json.dumps(code)
        path = Path(spec.rpartition(".py")[0] + ".py").expanduser()
        if ".py" in spec and (commit := _commit(path.parent)):
            found[f"git of {spec}"] = commit
    return found


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines: Iterable[str] = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = ()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _commit(folder: Path) -> str | None:
    """The commit that a folder's files are at, and whether they have been changed since."""
    git = shutil.which("git")
    if git is None:
        return None

    def asked(*words: str) -> str | None:
        there = [git, "-C", str(folder), *words]
        answer = subprocess.run(there, capture_output=True, text=True, check=False)  # noqa: S603
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit = asked("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}, changed since" if asked("status", "--porcelain", "--", ".") else commit

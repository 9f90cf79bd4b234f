"""How much memory runs take, how much the machine has left, and whether another run fits in."""

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

__all__ = ["Room", "floor", "forget_peak", "free", "kills", "own", "peak", "words"]

_GIB = 2**30
# Below this share of the memory, within these limits, a machine comes to a halt before it runs out.
_FLOOR, _LEAST, _MOST = 0.05, _GIB // 4, 4 * _GIB
# Which groups of processes this one is in, and where all of them are told of.
_MINE, _ALL = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# In which files a group, such as a container, tells its limit, what it takes, and the part of
# that which the system can have back: in version 2 of Linux's cgroups, and in version 1.
_GROUPS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free() -> int:
    """How many bytes can still be taken: of the machine, or of what its container may."""
    left = [psutil.virtual_memory().available]
    for folder, limit, (_, _, taken, back) in _limits():
        # A group can be gone.
        with suppress(OSError, ValueError):
            lines = (folder / "memory.stat").read_text().splitlines()
            reclaimable = next((int(n) for k, n in map(str.split, lines) if k == back), 0)
            left.append(limit - int((folder / taken).read_text()) + reclaimable)
    return max(0, min(left))


@cache
def floor() -> int:
    """How many bytes are to stay free, so that the machine goes on."""
    total = min(psutil.virtual_memory().total, *(limit for _, limit, _ in _limits()), sys.maxsize)
    return int(min(_MOST, max(_LEAST, _FLOOR * total)))


@cache
def _limits() -> list[tuple[Path, int, tuple[str, str, str, str]]]:
    """The groups that this process is in and that have a limit: folder, limit, names of files."""
    try:
        lines = _MINE.read_text().splitlines()
    except OSError:
        return []
    found: list[tuple[Path, int, tuple[str, str, str, str]]] = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        for names in _GROUPS:
            if controllers != names[0]:
                continue
            top = _ALL / controllers
            own = top / place.lstrip("/")
            for folder in (own, *own.parents):
                if folder.is_relative_to(top):
                    with suppress(OSError, ValueError):
                        limit = int((folder / names[1]).read_text())
                        if limit < psutil.virtual_memory().total:
                            found.append((folder, limit, names))
    return found


def own(process: int) -> int:
    """The bytes that a process has for itself; 0 if it has ended."""
    try:
        info = psutil.Process(process).memory_info()
    except psutil.Error:
        return 0
    # What is shared are the libraries' files, which all workers have together.
    return max(0, info.rss - getattr(info, "shared", 0))


def forget_peak() -> None:
    """Have `peak` count from now on, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int | None:
    """The most bytes that this process has taken; None if the system does not tell."""
    # What getrusage tells begins with what the parent had taken.
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def kills() -> int | None:
    """How many processes the system has killed for lack of memory; None if it does not tell."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def words(size: float) -> str:
    """A number of bytes, to be read: `1.5 GiB`."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.0f} MiB"


class Room:
    """How many runs go into the machine's memory side by side."""

    def __init__(self) -> None:
        self._needs: dict[str, int] = {}
        self._at_once: dict[str, int] = {}

    def took(self, task: str, size: int) -> None:
        """Take note of the bytes that a run of a task has taken, or its data alone."""
        self._needs[task] = max(size, self._needs.get(task, 0))

    def ended(self, task: str) -> None:
        """Take note that a run has come to its end: what one needs is known from now on."""
        self._at_once.pop(task, None)

    def ran_short(self, tasks: Sequence[str]) -> None:
        """Take note that there was no room for runs of these tasks at once."""
        fewer = max(1, len(tasks) - 1)
        self._at_once |= {task: min(fewer, self._at_once.get(task, fewer)) for task in tasks}

    def allows(self, task: str, has: int, others: Iterable[tuple[str, int]]) -> bool:
        """Whether a run can begin, if it and the others become as large as the largest so far.

        One can always begin alone.

        Args:
            task: the run's.
            has: the bytes that the process which is to carry it out has already.
            others: of each process that is busy: what with, and the bytes that it has.
        """
        busy = list(others)
        if not busy:
            return True
        if any(len(busy) >= self._at_once.get(t, sys.maxsize) for t, _ in [(task, 0), *busy]):
            return False
        growth = sum(max(0, self._needs.get(t, 0) - size) for t, size in [(task, has), *busy])
        return free() - growth >= floor()

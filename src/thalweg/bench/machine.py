"""What was measured on."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from time import process_time

import torch

__all__ = ["cores", "description", "others_seconds"]

_CPU = Path("/sys/devices/system/cpu/cpu0/cache")
_STATISTICS = Path("/proc/stat")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def description() -> dict[str, str]:
    """The machine and the libraries, in words; what the system does not tell is left out."""
    facts = {
        "processor": _found(Path("/proc/cpuinfo"), r"model name\s*: (.*)") or platform.machine(),
        "cores": str(cores()),
        "caches": _caches(),
        "memory": _memory(),
        "system": platform.platform(),
        "huge pages": _found(_HUGE_PAGES, r"\[(\w+)\]"),
        "Python": platform.python_version(),
        "torch": f"{torch.__version__}, threads: {torch.get_num_threads()}",
        "thalweg": version("thalweg"),
        "load at the start": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "",
    }
    return {name: value for name, value in facts.items() if value}


def others_seconds() -> float | None:
    """For how long processors have worked for other processes, since the machine was started.

    The difference of two such times is what counts. None where the system does not tell.
    """
    found = _found(_STATISTICS, r"cpu +(.*)")
    if not found:
        return None
    # In ticks: user, nice, system, idle, waiting, interrupts twice, taken by other machines; what
    # follows is in these already.
    user, nice, system, _, _, *rest = (int(n) for n in found.split()[:8])
    return sum((user, nice, system, *rest)) / os.sysconf("SC_CLK_TCK") - process_time()


def _found(path: Path, pattern: str) -> str:
    try:
        found = re.search(pattern, path.read_text())
    except OSError:
        return ""
    return found[1] if found else ""


def cores() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _caches() -> str:
    known = [
        (_found(cache / "level", r"(\d)"), _found(cache / "size", r"(\w+)"))
        for cache in sorted(_CPU.glob("index*"))
        if _found(cache / "type", r"(\w+)") != "Instruction"
    ]
    return ", ".join(f"L{level} {size}iB" for level, size in known)


def _memory() -> str:
    total = _found(Path("/proc/meminfo"), r"MemTotal:\s*(\d+) kB")
    return f"{int(total) / 2**20:.1f} GiB" if total else ""

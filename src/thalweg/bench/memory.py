"""How much memory a call needs while it runs, and how much there is; both from Linux' /proc."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["available", "peak_growth"]

_PROCESS = Path("/proc/self")
_MIB = 2**20


def peak_growth(call: Callable[[], object]) -> float | None:
    """By how many MiB the process's resident memory grew during a call, at its highest.

    The system counts pages in batches, so that less than 1 MiB is noise. None where it does not
    tell.
    """
    try:
        # What was freed and not given back would hide what is taken from it.
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return None
    try:
        before = _field(_PROCESS / "status", "VmRSS")
        (_PROCESS / "clear_refs").write_text("5")
        call()
        return max(0, _field(_PROCESS / "status", "VmHWM") - before) / _MIB
    except OSError:
        return None


def available() -> int | None:
    """How many bytes of memory are free for use; None where the system does not tell."""
    try:
        return _field(Path("/proc/meminfo"), "MemAvailable")
    except OSError:
        return None


def _field(path: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB", path.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{path} has no {name}")
    return int(found[1]) * 1024

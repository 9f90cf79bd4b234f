"""What workers train on: the GPUs there are, or else the processor."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from thalweg.errors import UsageError
from thalweg.lab.runner.session import cores

__all__ = ["devices", "workers"]

# What drivers of GPUs that torch knows put into the system.
_TRACES = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")


def devices(asked: str | None) -> tuple[str | None, ...]:
    """The devices that workers are dealt; None for the best that a worker finds.

    Args:
        asked: "cpu", one such as "cuda:1", or "cuda" for all GPUs; None: GPUs where there are any.

    Raises:
        UsageError: GPUs are asked for, and torch has none.
    """
    if asked not in (None, "cuda"):
        return (asked,)
    count = _gpus() if asked == "cuda" or _seem_to_be_there() else 0
    if asked == "cuda" and not count:
        raise UsageError(
            "device is 'cuda', but torch finds no GPU here: leave it out to have the best there is."
        )
    return tuple(f"cuda:{i}" for i in range(count)) or (None,)


def workers(among: Sequence[str | None], threads: int) -> int:
    """How many workers keep a machine busy: one for each GPU, or for each so many cores.

    Args:
        among: the devices, as `devices` tells them.
        threads: of each worker.
    """
    if (among[0] or "").startswith("cuda"):
        return len(among)
    return max(1, cores() // threads)


def _seem_to_be_there() -> bool:
    # To ask torch costs more than a second, which most machines need not spend.
    return any(Path(p).exists() for p in _TRACES) or shutil.which("nvidia-smi") is not None


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0

"""A folder that one process at a time may write to."""

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from thalweg.errors import UsageError

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["LOCK", "HeldError", "held"]

LOCK = "lock"
"""The file in the folder that is locked."""


class HeldError(Exception):
    """Another process holds the folder; the message says which."""


def held(folder: Path) -> "BaseFileLock":
    """Hold a folder until the lock is released or the process ends, however it ends.

    Raises:
        HeldError: another process holds it.
        OSError: it cannot be written.
        UsageError: filelock is not installed.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise UsageError(
            'a run with a folder needs filelock, which is not installed: pip install "thalweg[lab]"'
        ) from error
    file = folder / LOCK
    # Whoever lets the folder go may be another thread than the one that took it.
    lock = FileLock(file, thread_local=False)
    try:
        lock.acquire(timeout=0)  # pyright: ignore[reportUnknownMemberType]
    except Timeout as error:
        holder = ""
        with suppress(OSError):
            holder = file.read_text(errors="replace").strip()
        raise HeldError(holder or "just started") from error
    # Only for that message; the lock holds without it.
    with suppress(OSError):
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    return lock

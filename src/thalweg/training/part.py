"""A file that appears under its name once it is whole, and not before."""

import errno
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from types import TracebackType

from thalweg.errors import UsageError

__all__ = ["Part", "clear", "failing"]


class Part:
    """A hidden file in a folder, which `become` gives its name; left before that, it is removed.

    At whatever moment the process or the machine stops, what had the name before is there, or
    what has it now. Bytes are written with `write`; `torch.save` does.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f".{token_hex(8)}.part"
        self._file = self._path.open("xb", buffering=1 << 20)
        self._sha256 = sha256()
        self._error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """Take bytes, and how many they were. What goes wrong is raised by `become`."""
        # Raised here, torch.save would put an error of its own in its place.
        if self._error is None:
            try:
                self._file.write(data)
                self._sha256.update(data)
            except BaseException as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Do nothing: `torch.save` calls it, and `become` sees to it."""

    def digest(self) -> str:
        """The sha256 of what was written, in hexadecimal digits."""
        return self._sha256.hexdigest()

    def become(self, name: str) -> Path:
        """Put all of it on the disk, and then under its name.

        Raises:
            OSError: it could not be written; nothing has changed under the name.
        """
        if self._error:
            raise self._error
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        path = self._path.with_name(name)
        self._path.replace(path)
        _sync(path.parent)
        return path

    def __enter__(self) -> "Part":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not know this for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def clear(folder: Path) -> None:
    """Remove the parts that writers left when they died; there may be no other writer now."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EIO: "the disk failed",
    errno.EROFS: "the folder is read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.ENOENT: "the folder is not there any more",
    errno.ENOTDIR: "that is not a folder",
}


@contextmanager
def failing(what: str, folder: Path, then: Callable[[], str]) -> Generator[None]:
    """Turn an OSError into a UsageError: `what` could not be done in `folder`, why, and `then`."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, "the system refused")
        raise UsageError(
            f"{what} could not be written to {folder}: {reason} ({error.strerror or error}). "
            f"{then()}"
        ) from error

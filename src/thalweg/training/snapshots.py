"""The states that a run can go on from: the last two, and whether they are whole."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from textwrap import shorten
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from thalweg.errors import UsageError
from thalweg.training.part import Part, clear, failing

__all__ = ["Snapshots", "check_plain"]

_MARK = "thalweg snapshot"
_FORMAT = 1
_NAME = re.compile(r"(\d{8,})-([0-9a-f]{16})\.pt")


class Snapshots:
    """The snapshots in a folder, which has one writer at a time.

    A snapshot's file is called `<step, 8 digits>-<first 16 hexadecimal digits of its sha256>.pt`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unusable: set[Path] = set()

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Keep the state after so many steps, and the snapshot before it; remove all others.

        Args:
            step: steps taken. Snapshots of later steps are of a course that was given up.
            state: tensors, numbers, strings and None, in lists, tuples and dicts.

        Returns:
            The snapshot's file.

        Raises:
            UsageError: it cannot be written, and the earlier snapshots are as they were; or the
                state holds something else, which could not be loaded again.
        """
        check_plain(state)
        with failing(f"the snapshot of step {step}", self.folder, self.earlier):
            clear(self.folder)
            with Part(self.folder) as part:
                whole = {"mark": _MARK, "format": _FORMAT, "step": step, "state": dict(state)}
                torch.save(whole, part)  # pyright: ignore[reportArgumentType]
                path = part.become(f"{step:08d}-{part.digest()[:16]}.pt")
        # It is saved by now; what stays too long is removed the next time.
        with suppress(OSError):
            others = [p for p in self._listed() if p != path]
            usable = [p for p in others if _step(p) <= step and p not in self._unusable]
            for other in others:
                if other not in usable[-1:]:
                    other.unlink()
        return path

    def newest(self) -> tuple[dict[str, Any], Path] | None:
        """The newest state that is whole, on the CPU, and its file; None where there is none yet.

        What cannot be used is passed over with a warning that names it.

        Raises:
            UsageError: there are files, but none can be used; the message names them all. Or the
                folder is not there.
        """
        if not self.folder.is_dir():
            raise UsageError(
                f"the folder of snapshots {self.folder} does not exist: put it back, or start "
                "anew in another folder."
            )
        listed = self._listed()
        # What was put there by hand is not the run's to load, nor to remove.
        strangers = [p for p in self.folder.iterdir() if p not in listed and p.name[0] != "."]
        problems = [f"{p.name}: not called as a snapshot is" for p in sorted(strangers)]
        for path in reversed(listed):
            try:
                state = _loaded(path)
            except _UnusableError as error:
                self._unusable.add(path)
                problems.append(f"{path.name}: {error}")
                continue
            if problems:
                warnings.warn(
                    f"passed over in {self.folder}: {'; '.join(problems)}. Going on from {path}.",
                    stacklevel=2,
                )
            return state, path
        if problems:
            raise UsageError(
                f"no snapshot in {self.folder} can be used: {'; '.join(problems)}. Put a whole "
                "one there, or start anew in another folder."
            )
        return None

    def earlier(self) -> str:
        """A sentence on what there is to go on from, which is read to be certain of it."""
        try:
            for path in reversed(self._listed()):
                with path.open("rb") as file:
                    if _digest(file) == _sum(path):
                        return f"The snapshot {path} is intact: the run can go on from it."
        except OSError as error:
            return f"The snapshots there cannot be read either ({error.strerror})."
        return "There is no earlier snapshot."

    def _listed(self) -> list[Path]:
        """Files that are called as a snapshot is, the newest last."""
        found = [p for p in self.folder.glob("*.pt") if _NAME.fullmatch(p.name) and p.is_file()]
        return sorted(found, key=lambda p: (_step(p), p.stat().st_mtime_ns))


class _UnusableError(Exception):
    pass


def _step(path: Path) -> int:
    return int(path.stem.partition("-")[0])


def _sum(path: Path) -> str:
    return path.stem.partition("-")[2]


def _digest(file: BinaryIO) -> str:
    digest = sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()[:16]


def _loaded(path: Path) -> dict[str, Any]:
    """The state in a snapshot's file."""
    try:
        with path.open("rb") as file:
            if _digest(file) != _sum(path):
                raise _UnusableError(f"truncated or altered ({file.tell()} bytes)")
            file.seek(0)
            whole: Any = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _UnusableError(f"cannot be read ({error.strerror or error})") from error
    except _UnusableError:
        raise
    # What torch raises depends on what is in the file.
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", 160)
        raise _UnusableError(f"torch does not load it ({reason})") from error
    if not isinstance(whole, dict):
        raise _UnusableError("written by another program")
    whole = cast("dict[str, Any]", whole)
    if whole.get("mark") != _MARK:
        raise _UnusableError("written by another program")
    if whole.get("format") != _FORMAT:
        raise _UnusableError(
            f"its format is {whole.get('format')}, and this Thalweg reads format {_FORMAT}"
        )
    if whole.get("step") != _step(path):
        raise _UnusableError(f"holds step {whole.get('step')}, not the one in its name")
    return whole["state"]


_PLAIN = {
    *(Tensor, nn.Parameter, torch.dtype, torch.device, torch.Size),
    *(bool, int, float, complex, str, bytes, type(None)),
}


def check_plain(state: Any, place: str = "state") -> None:
    """See that `torch.load(weights_only=True)` will take what is saved.

    Raises:
        UsageError: it will not; the message names the place.
    """
    kind = cast("type[Any]", type(state))
    if kind in _PLAIN:
        return
    if kind in (dict, OrderedDict):
        for key, value in state.items():
            check_plain(key, f"a key of {place}")
            check_plain(value, f"{place}[{key!r}]")
    elif kind in (list, tuple):
        for i, value in enumerate(state):
            check_plain(value, f"{place}[{i}]")
    else:
        raise UsageError(
            f"{place} is of the type {kind.__module__}.{kind.__qualname__}, which cannot be saved: "
            "use tensors, numbers, strings and None, in lists, tuples and dicts."
        )

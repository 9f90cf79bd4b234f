"""What is kept of a run in its folder, and how a run goes on from there."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any, cast

from thalweg.errors import UsageError
from thalweg.training.differences import differences
from thalweg.training.folder import Folder
from thalweg.training.identity import environment, identity
from thalweg.training.nonfinite import check_weights
from thalweg.training.records import Record
from thalweg.training.run import Run
from thalweg.training.snapshots import check_plain

__all__ = ["Keeper"]


class Keeper:
    """Keeps a run's snapshots and records in a folder; nothing, where there is no folder.

    Attributes:
        due: when the next snapshot is, on the clock of `perf_counter`.
        earlier: the records of the run before it was resumed.
    """

    def __init__(self, run: Run, folder: Folder | None, every: float) -> None:
        self._run, self._folder, self._every = run, folder, every
        self.due = perf_counter() + every if folder else float("inf")
        self.earlier: list[Record] = []
        self._saved = (-1, -1)

    @classmethod
    def begin(
        cls,
        run: Run,
        out: Path | None,
        *,
        resume: bool,
        force: bool,
        every: float,
        about: Mapping[str, Any],
    ) -> "Keeper":
        """Make the folder of a new run, or have `run` go on from what its folder holds.

        Args:
            run: as it is before its first step.
            out: the folder; None: nothing is kept.
            resume: whether to go on with the run in it, if there is one.
            force: whether to do so though the task, model, code, data or settings differ.
            every: seconds between two snapshots.
            about: entries of `run.json`.

        Raises:
            UsageError: the folder cannot be used, or holds a run of something else.
        """
        if not every >= 0:
            raise UsageError(f"save_every is {every}, but must be a number of seconds from 0.")
        if out is None:
            if resume:
                raise UsageError("resume is True, but out names no folder to go on from.")
            return cls(run, None, every)
        # What cannot be kept is better found now than after an hour.
        check_plain(run.state())
        described: dict[str, Any] = {
            **_described(run),
            "identity": identity(run.task, run.model, run.data),
            "environment": environment(),
        }
        if not (resume and (out / "run.json").exists()):
            entry = _entry(0)
            whole = {**described, **about, "status": "running", "reason": "", "history": [entry]}
            return cls(run, Folder.create(out, whole), every)
        folder = Folder.open(out)
        try:
            keeper = cls(run, folder, every)
            keeper._go_on(described, force)
        except BaseException:
            folder.close()
            raise
        return keeper

    def _go_on(self, described: Mapping[str, Any], force: bool) -> None:
        folder, run = self._folder, self._run
        assert folder is not None
        old = folder.run
        if missing := {*described, "history"} - old.keys():
            raise UsageError(
                f"{folder.path / 'run.json'} is damaged: it has no {', '.join(sorted(missing))}. "
                "Put it back from a copy, or start anew in another folder."
            )
        differing = differences(old["identity"], described["identity"])
        differing += differences(_flat(old), _flat(described))
        if differing and not force:
            lines = "\n  ".join(differing)
            raise UsageError(
                f"the run in {folder.path} is not this one:\n  {lines}\nStart anew in another "
                "folder, or go on all the same with force (--force), which is recorded."
            )
        noted = differences(
            {"environment": old["environment"]}, {"environment": described["environment"]}
        )
        found = folder.snapshots.newest()
        if found is not None:
            run.load(found[0])
            self._saved = run.steps, run.recorded
        self.earlier = folder.cut(run.recorded)
        if [r.steps for r in self.earlier[-1:]] != [run.recorded] * bool(run.recorded):
            warnings.warn(
                f"records of the run in {folder.path} are missing: the last one should be of step "
                f"{run.recorded}.",
                stacklevel=2,
            )
        folder.note(
            **described,
            status="running",
            reason="",
            history=[*old["history"], _entry(run.steps, forced=differing, noted=noted)],
        )

    def save(self) -> None:
        """Keep a snapshot of the run as it is now.

        Raises:
            DivergenceError: a parameter is not finite; the earlier snapshots stay.
        """
        if self._folder is not None:
            check_weights(self._run)
            self._folder.snapshots.save(self._run.steps, self._run.state())
            self._saved = self._run.steps, self._run.recorded
            self.due = perf_counter() + self._every

    def record(self, record: Record) -> None:
        """Keep a record."""
        if self._folder is not None:
            self._folder.append(record)

    def end(self, status: str, reason: str = "") -> None:
        """Say how the run ended, and let others have its folder."""
        if self._folder is None:
            return
        try:
            if status == "finished":
                # So that there is nothing left to be done again.
                if self._saved != (self._run.steps, self._run.recorded):
                    self.save()
                self._folder.save_model(self._run.averages.model.state_dict())
            self._folder.note(status=status, reason=reason)
        except UsageError:
            # What ended the run matters more than that it could not be noted.
            if status == "finished":
                raise
        finally:
            self._folder.close()
            self._folder = None

    def earlier_snapshot(self) -> str:
        """A sentence on what there is to go on from; empty where nothing is kept."""
        return "" if self._folder is None else self._folder.snapshots.earlier()


def _described(run: Run) -> dict[str, Any]:
    """What `run.json` says of a run: all that decides its result, as plain data."""
    task, course = run.task, run.course
    described = {
        "task": {
            "name": task.name,
            "about": task.about,
            "metric_name": task.metric_name,
            "higher_is_better": task.higher_is_better,
        },
        "optimizer": {"name": type(run.optimizer).__name__, "settings": course.made_with()},
        "phases": [{**span.phase.data(), "steps": span.steps} for span in course.spans],
        "recipe": asdict(run.recipe),
        "per_epoch": run.per_epoch,
        "parameters": sum(p.numel() for p in run.parameters),
    }
    # As it will be read again: tuples are lists there.
    return json.loads(json.dumps(described))


def _flat(run: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The parts of `run.json` that must not change, for `differences`."""
    return {
        "optimizer": {
            "name": str(run["optimizer"]["name"]),
            **{n: _plain(v) for n, v in run["optimizer"]["settings"].items()},
        },
        "phases": {
            f"{name} of phase {i}": _plain(value)
            for i, phase in enumerate(run["phases"])
            for name, value in {**phase, **phase["settings"]}.items()
            if name != "settings"
        },
        "recipe": {n: _plain(v) for n, v in run["recipe"].items()},
    }


def _plain(value: Any) -> str:
    """A value in words, the same for 3 and for 3.0."""
    if isinstance(value, list):
        return f"[{', '.join(_plain(v) for v in cast('list[Any]', value))}]"
    if isinstance(value, dict):
        parts = cast("dict[str, Any]", value).items()
        return f"{{{', '.join(f'{n}: {_plain(v)}' for n, v in parts)}}}"
    return repr(float(value)).removesuffix(".0") if type(value) in (int, float) else str(value)


def _entry(step: int, **more: list[str]) -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"at": now, "step": step, **more}

"""Where results are kept: one SQLite file per comparison, written as runs end."""

import json
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.errors import UsageError
from thalweg.lab.plan import Plan
from thalweg.lab.records import reading, schema
from thalweg.lab.records.migrations import migrate
from thalweg.lab.records.reading import FILE, read_study
from thalweg.lab.runner.worker import Loaded
from thalweg.lab.study import Result, Study
from thalweg.training.holding import LOCK, HeldError, held

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["Store", "check_unused", "read_study"]

_PART = ".results.sqlite.part"


class Store:
    """The results of one comparison, in a folder of its own, held until it is closed.

    The file is readable with the plain `sqlite3` tool; `docs/store.md` says what stands where.

    Attributes:
        folder: where it is.
    """

    def __init__(self, folder: Path, lock: "BaseFileLock") -> None:
        self.folder = folder
        self._lock = lock
        self._session = 0
        try:
            self._connection = _connected(folder / FILE)
        except sqlite3.Error as error:
            raise UsageError(
                f"the comparison in {folder} cannot be written: {_why(error)}"
            ) from error

    @classmethod
    def create(cls, folder: Path, plan: Plan) -> "Store":
        """A new store in a folder that is new or empty.

        Raises:
            UsageError: the folder holds something already, or cannot be written.
        """
        check_unused(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the output folder {folder} cannot be made: {error}.") from error
        with _held(folder) as lock:
            # Another process may have begun one in between.
            check_unused(folder)
            try:
                # It gets its name when it is whole, so that a comparison is there or is not.
                (folder / _PART).unlink(missing_ok=True)
                with closing(sqlite3.connect(folder / _PART)) as c:
                    c.execute("BEGIN")
                    schema.lay_out(c)
                    schema.insert(c, "study", _of_plan(plan))
                    c.commit()
                (folder / _PART).replace(folder / FILE)
            except (OSError, sqlite3.Error) as error:
                raise UsageError(
                    f"the output folder {folder} cannot be written: {_why(error)}"
                ) from error
            return cls(folder, lock)

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """The store that an earlier comparison left in a folder, to go on with it.

        One that an earlier version of Thalweg wrote is brought to the current one, and a copy of
        it as it was stays in the folder.

        Raises:
            UsageError: there is none, it is damaged, a later version of Thalweg wrote it, it
                cannot be written, or another process has it open.
        """
        path = reading.located(folder)
        with _held(folder) as lock:
            with reading.telling(path), closing(reading.read_only(path)) as c:
                version = reading.checked(c, path)
                for table in schema.TABLES if version == schema.VERSION else ():
                    for _ in schema.rows(c, table):
                        pass
            if version < schema.VERSION:
                _bring_up(path, version)
            return cls(folder, lock)

    def begin(
        self,
        loaded: Mapping[str, Loaded],
        session: Mapping[str, str],
        *,
        plan: Plan | None = None,
        force: bool = False,
    ) -> None:
        """Begin or go on with the study; what `add` keeps from now on belongs to this session.

        Args:
            loaded: the tasks as they are now, by their spec.
            session: what is kept of where and with what the runs are made.
            plan: the plan from now on, where it has become a larger one.
            force: go on though a task is not what it was; the session then tells.

        Raises:
            UsageError: a task's code, model or data are not what they were, the plan is not a
                larger one, or the store cannot be written.
        """
        from thalweg.training.differences import differences

        c = self._connection
        with reading.telling(self.folder / FILE):
            stored = {task: (facts, identity) for task, facts, identity in schema.rows(c, "tasks")}
            [(_, old)] = schema.rows(c, "study")
        if plan is not None:
            plan.check_extends(Plan.from_json(old), force=force)
        # Earlier formats did not keep what a task was.
        known = {spec: json.loads(identity) for spec, (_, identity) in stored.items()}
        changed = {
            spec: lines
            for spec, task in loaded.items()
            if known.get(spec) and (lines := differences(known[spec], task.identity))
        }
        if changed and not force:
            lines = "; ".join(f"{spec}: {', '.join(parts)}" for spec, parts in changed.items())
            raise UsageError(
                f"what the study in {self.folder} trains has changed since: {lines}. Runs of both "
                "would be mixed: put it back, start anew with --out, or go on nevertheless with "
                "--force, which the report then tells."
            )
        notes = {f"changed in {spec}": "; ".join(lines) for spec, lines in changed.items()}
        try:
            with c:
                if plan is not None:
                    schema.insert(c, "study", _of_plan(plan))
                for spec, task in loaded.items():
                    # Facts stay as long as the runs that they tell of do.
                    facts, _ = stored.get(spec, ("", "")) if spec not in changed else ("", "")
                    values = {
                        "task": spec,
                        "facts": facts or _text(task.task.__dict__),
                        "identity": _text(task.identity),
                    }
                    schema.insert(c, "tasks", values)
                self._session = _next(c, "sessions")
                value = {"id": self._session, "value": _text({**session, **notes})}
                schema.insert(c, "sessions", value)
        except sqlite3.Error as error:
            raise UsageError(
                f"the study in {self.folder} cannot be written: {_why(error)}"
            ) from error

    def add(self, result: Result) -> None:
        """Keep one run's result, all of it or nothing; it is on the disk when this returns.

        Raises:
            UsageError: it cannot be written, or that run is there already.
        """
        run = result.run
        name = f"{run.optimizer} on {run.task}, trial {run.trial}, seed {run.seed},"
        try:
            with self._connection as c:
                schema.insert(c, "runs", {"id": _next(c, "runs"), **self._row(result)})
        except sqlite3.IntegrityError as error:
            raise UsageError(
                f"{name} is in {self.folder} already or is not whole: {error}."
            ) from error
        except sqlite3.Error as error:
            raise UsageError(
                f"{name} could not be kept in {self.folder}: {_why(error)} Earlier runs are kept; "
                "go on with --resume then."
            ) from error

    def _row(self, result: Result) -> dict[str, Any]:
        epochs = result.epochs
        last = epochs[-1] if epochs else None
        curve = {name: [getattr(e, name) for e in epochs] for name in reading.CURVE}
        return {
            **result.run.__dict__,
            "status": result.status,
            "reason": result.reason,
            "settings": _text(dict(result.settings)),
            "train_loss": last and last.train_loss,
            "validation_loss": last and last.validation_loss,
            "metric": last and last.metric,
            "test": last and last.test,
            "epochs": last.epoch if last else 0,
            "steps": last.steps if last else 0,
            "seconds": last.seconds if last else 0.0,
            "state_bytes": result.state_bytes,
            "memory": result.memory,
            "session": self._session,
            "curve": _text(curve),
        }

    def study(self) -> Study:
        """Everything that is stored.

        Raises:
            UsageError: something in it is damaged.
        """
        return reading.study_in(self._connection, self.folder / FILE)

    def close(self) -> None:
        """Close the file, and let others have the folder."""
        # One file holds everything then, which is read from wherever it is copied to. It cannot
        # be so while somebody reads it, or on a full disk.
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.close()
        self._lock.release()


def check_unused(folder: Path) -> None:
    """See that a folder can become a comparison's.

    Raises:
        UsageError: there is something in it, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the output folder {folder} is a file: choose another with --out.")
    # What a start that did not succeed left is nothing.
    if folder.is_dir() and {p.name for p in folder.iterdir()} - {LOCK, _PART, f"{_PART}-journal"}:
        resume = (
            f", or go on with what is in it: thalweg compare --resume {folder}"
            if (folder / FILE).exists()
            else ""
        )
        raise UsageError(
            f"the output folder {folder} is not empty, and nothing in it is overwritten: choose "
            f"another with --out{resume}."
        )


@contextmanager
def _held(folder: Path) -> "Generator[BaseFileLock]":
    """Hold a folder; it is let go again only if what is done with it does not succeed."""
    try:
        lock = held(folder)
    except HeldError as error:
        raise UsageError(
            f"the comparison in {folder} is in use ({error}): wait until it has ended or end it, "
            "or choose another folder. Its report can be made all the same: "
            f"thalweg report {folder}."
        ) from error
    except OSError as error:
        raise UsageError(f"the comparison in {folder} cannot be written: {_why(error)}") from error
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=reading.PATIENCE)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # NORMAL would leave the last runs to the system's own time: a power cut would undo them. A
        # run takes longer than the disk.
        connection.execute("PRAGMA synchronous = FULL")
        # In pages: so little is lost to who copies the file without its log.
        connection.execute("PRAGMA wal_autocheckpoint = 100")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _bring_up(path: Path, version: int) -> None:
    """Migrate a file, beside which it stays as it was."""
    before = path.with_name(f"results-format-{version}.sqlite")
    try:
        part = path.with_name(_PART)
        part.unlink(missing_ok=True)
        with closing(sqlite3.connect(path, timeout=reading.PATIENCE)) as c:
            with closing(sqlite3.connect(part)) as copy:
                reading.copy(path, copy)
            part.replace(before)
            migrate(c, version)
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise reading.damaged(path, error) from error
    except (OSError, sqlite3.Error) as error:
        raise UsageError(
            f"{path} cannot be brought from format {version} to {schema.VERSION}, and is as it "
            f"was: {_why(error)}"
        ) from error


def _why(error: Exception) -> str:
    """What SQLite or the system says, and what to do about it."""
    said = str(error)
    advice = (
        ("full", "Make room on the disk."),
        ("No space", "Make room on the disk."),
        ("locked", "Another program has the file open: close it there."),
        ("readonly", "Make the file and its folder writable, or copy the folder elsewhere."),
        ("Read-only", "Copy the folder to where it can be written."),
        ("ermission", "Make the file and its folder writable, or copy the folder elsewhere."),
        ("unable to open", "Make the file and its folder writable, or copy the folder elsewhere."),
        ("I/O", "See to the disk."),
    )
    return " ".join([f"{said}.", *[what for word, what in advice if word in said][:1]])


def _text(value: Any) -> str:
    """Text as it is, and JSON of anything else."""
    if isinstance(value, str):
        return value
    return schema.portable(json.dumps(value, separators=(",", ":")))


def _of_plan(plan: Plan) -> dict[str, str]:
    return {"key": "plan", "value": schema.portable(plan.to_json())}


def _next(connection: sqlite3.Connection, table: str) -> int:
    [(last,)] = connection.execute(f"SELECT max(id) FROM {table}")  # noqa: S608
    return (last or 0) + 1

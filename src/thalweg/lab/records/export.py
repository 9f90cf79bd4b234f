"""A study as tables for other programs: a row per run, and a row per epoch."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.errors import unknown
from thalweg.lab.study import Study
from thalweg.rules.declaration import Setting
from thalweg.training.part import Part, failing

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["FORMS", "curves", "frame", "runs", "write"]

FORMS = ("csv", "json", "parquet")

_RUN = ("task", "optimizer", "trial", "seed")
_CURVE = ("epoch", "steps", "train_loss", "validation_loss", "metric", "seconds")
_FACTS = (
    *_RUN,
    *("role", "chosen", "status", "reason", "epochs", "steps"),
    *("train_loss", "validation_loss", "metric", "test"),
    *("seconds", "state_bytes", "memory", "session"),
)

Row = dict[str, Any]


def runs(study: Study) -> Iterator[Row]:
    """A row per run that has ended: what it was, what it came to, and what it ran with.

    Every row has the same columns; those of settings come last. A setting that has the name of
    another column gets `_setting` behind it. What is not finite or not there is None.
    """
    written = _settings(study)
    chosen = {
        (task.spec, name): study.chosen(task.spec, name)
        for task in study.plan.tasks
        for name in study.plan.optimizers
    }
    for result in study.results:
        run = result.run
        last = result.epochs[-1] if result.epochs else None
        role = "judging" if run.seed in study.plan.seeds else "tuning"
        picked = chosen[run.task, run.optimizer] == run.trial
        known = {**(vars(last) if last else {}), **vars(result), **vars(run)}
        known |= {"role": role, "chosen": picked, "epochs": last.epoch if last else 0}
        row = {name: _finite(known.get(name)) for name in _FACTS}
        yield row | {
            column: _finite(write(result.settings[name])) if name in result.settings else None
            for column, (name, write) in written.items()
        }


def curves(study: Study) -> Iterator[Row]:
    """A row per epoch of each run: which run, and what was measured after the epoch."""
    for result in study.results:
        run = {name: getattr(result.run, name) for name in _RUN}
        for epoch in result.epochs:
            yield run | {name: _finite(getattr(epoch, name)) for name in _CURVE}


def frame(study: Study) -> "pandas.DataFrame":
    """The rows of `runs` as a table of pandas."""
    import pandas  # pyright: ignore[reportMissingTypeStubs]

    return pandas.DataFrame(list(runs(study)), columns=_columns(study))


def write(study: Study, folder: Path, forms: Iterable[str]) -> list[Path]:
    """Write `runs` and `curves` in each form; files of these names are replaced.

    Args:
        study: all of it.
        folder: where; it is made if it is not there.
        forms: some of `FORMS`.

    Returns:
        The files.

    Raises:
        UsageError: a form is not known, or a file cannot be written.
    """
    written: list[Path] = []
    with failing("the tables", folder, lambda: "Choose another folder with --out."):
        folder.mkdir(parents=True, exist_ok=True)
        for form in forms:
            if form not in FORMS:
                raise unknown("form", form, FORMS)
            for name, rows, columns in (
                ("runs", runs(study), _columns(study)),
                ("curves", curves(study), [*_RUN, *_CURVE]),
            ):
                with Part(folder) as part:
                    _WRITERS[form](part, rows, columns)
                    written.append(part.become(f"{name}.{form}"))
    return written


def _write_csv(part: Part, rows: Iterable[Row], columns: Sequence[str]) -> None:
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row)
    part.write(text.getvalue().encode())


def _write_json(part: Part, rows: Iterable[Row], columns: Sequence[str]) -> None:
    lines = ",\n ".join(json.dumps(row, ensure_ascii=False) for row in rows)
    part.write(f"[{lines}]\n".encode())


def _write_parquet(part: Part, rows: Iterable[Row], columns: Sequence[str]) -> None:
    import pandas  # pyright: ignore[reportMissingTypeStubs]

    table = pandas.DataFrame(list(rows), columns=list(columns))
    part.write(table.to_parquet(index=False, engine="pyarrow"))  # pyright: ignore


_WRITERS = {"csv": _write_csv, "json": _write_json, "parquet": _write_parquet}


def _columns(study: Study) -> list[str]:
    return [*_FACTS, *_settings(study)]


def _settings(study: Study) -> dict[str, tuple[str, Callable[[Setting], Any]]]:
    """For each column of settings the setting's name, and how its values are written."""
    kinds: dict[str, set[type]] = {}
    for result in study.results:
        for name, value in result.settings.items():
            kinds.setdefault(name, set()).add(type(value))
    return {
        f"{name}_setting" if name in _FACTS else name: (name, _plain if len(k) == 1 else _words)
        for name, k in kinds.items()
    }


def _words(value: Setting) -> str:
    """A setting as it is written in the command."""
    if isinstance(value, tuple):
        return "/".join(map(repr, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Setting) -> float | bool | str:
    return _words(value) if isinstance(value, tuple) else value


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The pictures show what the page does, for every study that can be drawn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from lab.studies import outcomes, study
from thalweg.errors import UsageError
from thalweg.lab.findings.summary import summarize
from thalweg.lab.report.pictures import write_pictures
from thalweg.lab.study import Study

TUNED = study(("adam", "sgd", "nag"), trials=8, seeds=4, diverges=10)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures that are saved, by the name of their file."""
    found: dict[str, Any] = {}
    save = Figure.savefig

    def saved(self: Any, path: Path, **options: Any) -> None:
        found[path.stem] = self
        save(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", saved)
    return found


def test_each_task_has_its_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    of = study(("adam", "sgd"), trials=4, tasks=("blobs", "dir/rings.py:task"))
    written = write_pictures(of, folder)
    kinds = ("budget", "final", "curves", "sensitivity")
    tasks = ("blobs", "dir-rings.py-task")
    assert [p.name for p in written] == [f"{task}-{kind}.png" for task in tasks for kind in kinds]
    assert all(imread(path).shape[1] == 1400 for path in written)
    assert sorted(written) == sorted(folder.iterdir())


def test_tasks_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    of = study(("adam", "sgd"), tasks=("a", "b"))
    same = replace(of, tasks={spec: replace(f, name="x") for spec, f in of.tasks.items()})
    names = [p.name for p in write_pictures(same, tmp_path)]
    assert len(set(names)) == len(names) == 4


def test_the_budget_is_that_of_the_summary(tmp_path: Path, figures: dict[str, Any]) -> None:
    write_pictures(TUNED, tmp_path)
    [axes] = figures["blobs-budget"].axes
    # The strokes to the names are left out of the layout.
    lines = [line for line in axes.lines if line.get_in_layout()]
    drawn = [list(line.get_ydata()) for line in lines]
    for curve in summarize(TUNED, "blobs").budget.values():
        assert any(ys == pytest.approx(list(curve.expected), rel=1e-4) for ys in drawn)
    names = {text.get_text() for text in axes.texts}
    assert names <= {"adam", "sgd", "nag"}
    best = max(drawn, key=lambda ys: ys[-1])
    assert max(lines, key=lambda line: line.get_linewidth()).get_ydata()[-1] == best[-1]


def test_the_final_table_is_drawn_best_first(tmp_path: Path, figures: dict[str, Any]) -> None:
    write_pictures(TUNED, tmp_path)
    axes = figures["blobs-final"].axes[0]
    rows = summarize(TUNED, "blobs").rows
    assert [label.get_text() for label in axes.get_yticklabels()] == [r.optimizer for r in rows]
    low, high = axes.get_ylim()
    assert low > high
    dots = {line.get_ydata()[0]: line for line in axes.lines if line.get_marker() == "o"}
    for i, row in enumerate(rows):
        assert dots[i].get_xdata()[0] == pytest.approx(row.difference)
        assert (dots[i].get_markerfacecolor() == "white") == (not row.ties)
    ends = [tuple(line.get_xdata()) for line in axes.lines if line.get_marker() == "None"]
    assert (rows[1].low, rows[1].high) in ends


@pytest.mark.parametrize(
    "of",
    [
        outcomes({"sgd": [0.8], "adam": [0.9]}),
        outcomes({"$a^{$": [0.8, 0.81, 0.82], "x^2": [0.9, 0.9, "nan"], "nag": ["boom"] * 3}),
        outcomes({"sgd": [0.5] * 3, "adam": [0.5] * 3}),
        study(("adam", "sgd"), trials=4, higher=False, epochs=1),
        study(("adam:lr=0.01", "sgd"), trials=4),
        study([f"sgd:lr={0.001 * i}" for i in range(1, 31)]),
    ],
    ids=["one-seed", "awkward", "constant", "loss", "nothing-searched", "thirty"],
)
def test_whatever_was_found_can_be_drawn(of: Study, tmp_path: Path) -> None:
    assert write_pictures(of, tmp_path)


def test_of_nothing_there_is_no_picture(tmp_path: Path) -> None:
    assert write_pictures(outcomes({"nag": ["boom"] * 3}), tmp_path) == ()
    assert write_pictures(replace(TUNED, results=()), tmp_path) == ()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        write_pictures(TUNED, tmp_path / "file" / "sub")

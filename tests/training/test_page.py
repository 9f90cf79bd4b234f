"""A run's page is one file that is safe to open anywhere and shows how the run went."""

import json
import math
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from thalweg import schedules
from thalweg.errors import UsageError
from thalweg.schedules import Schedule
from thalweg.training.folder import Folder
from thalweg.training.page import panels, write_page
from thalweg.training.planned import lines
from thalweg.training.records import Record

BOOM = "<b>boom</script><script>throw 1</script>"
CHROMIUM = shutil.which("chromium") or ""
in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")


def data(schedule: Schedule) -> dict[str, Any]:
    return {"schedule": schedule.data()}


def phase(steps: int, freeze: tuple[str, ...] = (), decay: str = "", **settings: Any) -> Any:
    return {
        "epochs": steps / 100,
        "freeze": list(freeze),
        "decay": decay or None,
        "steps": steps,
        "settings": settings,
    }


TWO = (
    phase(200, ("body",), lr=0.5),
    phase(400, (), "l2", lr=[data(schedules.cosine(x)) for x in (0.25, 1.0)], beta1=0.5),
)


def run(*phases: Any, **changed: Any) -> dict[str, Any]:
    return {
        "task": {
            "name": "blobs",
            "about": "Gaussian blobs & a line",
            "metric_name": "score",
            "higher_is_better": True,
            "spec": "blobs",
        },
        "optimizer": {"name": "AdamW", "settings": {"lr": 0.0012345678, "betas": [0.75, 0.99]}},
        "phases": list(phases or TWO),
        "recipe": {"batch_size": 32, "accumulate": 2, "clip_norm": None, "nonfinite": "stop"},
        "parameters": 1234567,
        "status": "finished",
        "reason": "",
        "history": [{"at": "2026-01-02T03:04:05", "step": 0}],
        "environment": {"torch": "2.9.0"},
        "command": "thalweg train 'blobs' <x>",
        **changed,
    }


def record(epoch: float, metric: float = 0.5, **changed: Any) -> Record:
    phase, lr = (0, 0.5) if epoch <= 2 else (1, 0.25)
    known = {"train_loss": 0.25, "validation_loss": 0.375, "phase": phase, "settings": {"lr": lr}}
    return Record(
        epoch=epoch, steps=round(100 * epoch), metric=metric, seconds=epoch, **{**known, **changed}
    )


def written(folder: Path, run: dict[str, Any], *records: Record) -> str:
    with Folder.create(folder / "run", run) as kept:
        for r in records:
            kept.append(r)
    path = write_page(folder / "run")
    assert path == folder / "run" / "report.html"
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags with their attributes, the text outside scripts and styles, and each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(page)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem is None:
            self.text += data + " "


# What settings are planned to be:


def test_a_schedule_is_drawn_as_it_is() -> None:
    cycle = schedules.one_cycle(0.5)
    planned = lines(run(phase(600, lr=data(cycle), momentum=0.9)))
    [line] = planned["lr"]
    assert line.steps == list(range(600))
    assert line.values == [cycle.over(600)(s) for s in range(600)]
    assert planned["momentum"][0].values == [0.9] * 600


def test_phases_follow_each_other_and_groups_have_lines_of_their_own() -> None:
    planned = lines(run())
    assert [line.group for line in planned["lr"]] == [0, 1]
    for line, start in zip(planned["lr"], (0.25, 1.0), strict=True):
        assert line.steps == list(range(600))
        assert line.values[:200] == [0.5] * 200
        assert line.values[200:] == [schedules.cosine(start, steps=400)(s) for s in range(400)]
    # What a phase does not name is the optimizer's.
    assert planned["beta1"][0].values == [0.75] * 200 + [0.5] * 400


def test_an_optimizers_own_schedule_runs_through_phases_that_say_nothing() -> None:
    whole = schedules.linear(1.0, 0.0)
    given = {"name": "Adam", "settings": {"lr": 0.5, "betas": [0.9, 0.99], "beta1": data(whole)}}
    [line] = lines(run(phase(200), phase(400, beta1=3.0), optimizer=given))["beta1"]
    assert line.values == [whole.over(600)(s) for s in range(200)] + [3.0] * 400


def test_a_long_run_has_few_points_and_keeps_the_ends_of_its_phases() -> None:
    long = schedules.polynomial(1.0)
    [line] = lines(run(phase(100_000, lr=data(long)), phase(77, lr=0.5)))["lr"]
    assert len(line.steps) <= 1000
    assert {0, 99_999, 100_000, 100_076} <= set(line.steps)
    for step, value in zip(line.steps, line.values, strict=True):
        assert value == (long.over(100_000)(step) if step < 100_000 else 0.5)


def test_a_function_of_the_users_own_is_known_only_as_it_was_used() -> None:
    mine = run(phase(600, lr={"function": "<function f>"}))
    drawn = panels(mine, [record(2), record(3)])[-1]
    assert drawn["id"] == "lr"
    [used] = drawn["traces"]
    assert (used["role"], used["x"], used["y"]) == ("used", [199, 299], [0.5, 0.25])


# What is drawn:


def test_curves_come_first_then_what_changes() -> None:
    drawn = panels(run(), [record(1), record(2, 0.75)])
    assert [panel["id"] for panel in drawn] == ["metric", "loss", "lr", "beta1"]
    metric, loss, lr, _ = drawn
    assert [t["y"] for t in metric["traces"]] == [[0.5, 0.75]]
    assert {t["name"]: t["y"] for t in loss["traces"]} == {
        "validation": [0.375, 0.375],
        "training": [0.25, 0.25],
    }
    assert all(t["x"] == [100, 200] for t in (*metric["traces"], *loss["traces"]))
    assert [t["name"] for t in lr["traces"]] == ["group 1", "group 2", "as used"]


def test_what_never_changes_is_not_drawn() -> None:
    drawn = panels(run(phase(600, lr=0.5)), [record(1), record(2)])
    assert [panel["id"] for panel in drawn] == ["metric", "loss"]
    # As after a step that shrank it.
    halved = panels(run(phase(600, lr=0.5)), [record(1), record(2, settings={"lr": 0.25})])
    assert [panel["id"] for panel in halved] == ["metric", "loss", "lr"]


def test_what_is_not_finite_is_a_gap_and_a_logarithm_needs_what_is_above_zero() -> None:
    metric, loss = panels(
        run(phase(600)), [record(1), record(2, math.nan, train_loss=math.inf, validation_loss=0.0)]
    )
    assert metric["traces"][0]["y"] == [0.5, None]
    assert [t["y"] for t in loss["traces"]] == [[0.375, 0.0], [0.25, None]]
    assert not loss["may_log"]
    assert panels(run(phase(600)), [record(1)])[1]["may_log"]


def test_plotly_reads_names_as_html() -> None:
    task = {**run()["task"], "metric_name": "<i>&"}
    metric = panels(run(task=task), [record(1)])[0]
    assert "<" not in metric["title"] + metric["traces"][0]["name"]
    assert unescape(metric["title"]) == "Validation <i>&"


# The file:


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    page = written(tmp_path, run(), record(1))
    loading = {"src", "srcset", "href", "data", "action", "poster", "xlink:href"}
    assert not [k for _, attributes in Page(page).tags for k in attributes if k in loading]
    policy = next(a["content"] for t, a in Page(page).tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    [style] = re.findall(r"<style>(.*?)</style>", page, re.S)
    assert "url(" not in style
    assert "@import" not in style


def test_what_users_wrote_stays_text(tmp_path: Path) -> None:
    mine = run(phase(600, (BOOM,)), phase(10, lr={"function": BOOM}), reason=BOOM)
    page = Page(written(tmp_path, {**mine, "status": "diverged"}, record(1)))
    assert not any(s.startswith("throw") for s in page.scripts)
    assert page.text.count(BOOM) == 3
    assert "thalweg train 'blobs' <x>" in page.text
    [given] = [s for s in page.scripts if s.startswith('{"')]
    assert json.loads(given)["phases"][0]["label"].startswith("phase 1: &lt;b&gt;boom")


def test_a_finished_run_tells_all(tmp_path: Path) -> None:
    records = [record(1, 0.75), record(5), record(6, 0.625, test=0.5, test_tta=0.5625)]
    text = Page(written(tmp_path, run(), *records)).text
    for said in (
        "blobs with AdamW: score 0.6250 after 6 epochs.",
        "Gaussian blobs & a line",
        "Test score 0.5000 0.5625 with test-time augmentation",
        "Best validation score 0.7500 after epoch 1",
        "Epochs 6 600 steps",
        "Batch size 32 2 batches per step",
        "Parameters 1,234,567",
        "1 2 200 lr = 0.5 body as the optimizer does it",
        "2 4 400 lr = cosine(start=0.25), cosine(start=1.0) beta1 = 0.5 nothing l2",
        "lr 0.0012345678 betas 0.75, 0.99",
        "Epoch Step Phase Training loss Validation loss score lr beta1 Training time",
        "1 100 1 0.2500 0.3750 best 0.7500 0.5000 – 1 s",
        "6 600 2 0.2500 0.3750 0.6250 0.2500 – 6 s",
        "clip_norm none",
        "torch 2.9.0",
        "Begun 2026-01-02T03:04:05",
    ):
        assert said in text
    assert "Under way" not in text
    assert "skipped" not in text
    assert text.count("best ") == 1


def test_lower_may_be_better(tmp_path: Path) -> None:
    task = {**run()["task"], "higher_is_better": False}
    text = Page(written(tmp_path, run(task=task), record(1, 0.75), record(2, 0.25))).text
    assert "Best validation score 0.2500 after epoch 2; lower is better" in text


def test_skipped_steps_are_told_where_there_are_any(tmp_path: Path) -> None:
    page = written(tmp_path, run(), record(1), record(2, skipped=7))
    assert "Steps skipped Training time" in Page(page).text
    assert "0.5000 – 7 2 s" in Page(page).text


def test_resumes_are_told_with_what_was_forced(tmp_path: Path) -> None:
    history = [
        {"at": "Monday", "step": 0},
        {"at": "Tuesday", "step": 1200, "forced": ["code: blobs.py was a, is b", "threads"]},
        {"at": "Wednesday", "step": 1300, "forced": [], "noted": ["environment: torch"]},
    ]
    text = Page(written(tmp_path, run(history=history), record(1))).text
    assert (
        "Begun Monday Resumed Tuesday, after step 1,200 code: blobs.py was a, is b threads "
        "Resumed Wednesday, after step 1,300 environment: torch"
    ) in text


@pytest.mark.parametrize(
    ("status", "records", "said"),
    [
        ("running", [], ["blobs with AdamW: nothing evaluated yet", "0 of 6 epochs are done"]),
        ("running", [record(1.5)], ["score 0.5000 after 1.5 epochs", "1.5 of 6 epochs are done"]),
        ("stopped", [record(1)], ["Stopped after 1 of 6 epochs", "thalweg train --resume"]),
        ("diverged", [record(1, math.nan)], ["blobs with AdamW diverged", "The loss was nan"]),
    ],
)
def test_a_run_that_is_not_finished_says_so(
    tmp_path: Path, status: str, records: list[Record], said: list[str]
) -> None:
    reason = "the loss was nan" if status == "diverged" else ""
    text = Page(written(tmp_path, run(status=status, reason=reason), *records)).text
    assert all(part in text for part in said)


def test_a_failed_write_leaves_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, run(), record(1))
    before = {p: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}

    def full(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text[:100].encode(encoding))
        raise OSError(28, "no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="the disk is full"):
        write_page(tmp_path / "run")
    assert {p: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()} == before


SHOWN: dict[str, tuple[tuple[Any, ...], list[Record], int]] = {
    "two phases": (TWO, [record(1), record(2, math.nan), record(6)], 4),
    "one phase": ((phase(600),), [record(1)], 2),
    "no record": ((phase(600, lr=data(schedules.cosine(0.5))),), [], 1),
    "nothing": ((phase(600),), [], 0),
}
PRESS = "document.getElementById('log').click(); document.querySelector('[value=steps]').click();"


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What Chromium, which starts slowly and once, makes of pages and of a script in each."""
    folder = tmp_path_factory.mktemp("shown")
    frames = ""
    cases = {name: (phases, records, PRESS) for name, (phases, records, _) in SHOWN.items()}
    cases["faulty"] = ((), [record(1)], "throw new Error('seen')")
    for name, (phases, records, script) in cases.items():
        page = written(folder / name, run(*phases), *records)
        waiting = f"<script>setTimeout(() => {{ {script} }}, 1000)</script></body>"
        frames += f'<iframe srcdoc="{escape(page.replace("</body>", waiting))}"></iframe>\n'
    path = folder / "pages.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{frames}{COLLECTED}")
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=8000 --dump-dom"
    )
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    body = re.search("<body>(.*)</body>", shown.stdout, re.DOTALL)
    assert body is not None
    return dict(zip(cases, json.loads(unescape(body[1])), strict=True))


COLLECTED = """<script>
onload = () => setTimeout(() => {
  document.body.textContent = JSON.stringify(Array.from(document.querySelectorAll("iframe"), f => {
    f.contentDocument.querySelectorAll("script").forEach(script => script.remove());
    return f.contentDocument.documentElement.outerHTML;
  }));
}, 4000);
</script>"""


@in_a_browser
@pytest.mark.parametrize("name", SHOWN)
def test_panels_are_drawn_without_an_error(name: str, documents: dict[str, str]) -> None:
    tag, attributes = Page(documents[name]).tags[0]
    assert tag == "html"
    assert "data-error" not in attributes
    # Each panel has a group of layers for its lines.
    assert documents[name].count('<g class="scatterlayer') == SHOWN[name][2]


@in_a_browser
def test_an_error_of_the_page_is_seen(documents: dict[str, str]) -> None:
    assert "seen" in (Page(documents["faulty"]).tags[0][1]["data-error"] or "")

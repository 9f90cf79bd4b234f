"""The report is one file that is safe to open anywhere and shows every run, however it went."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from thalweg.lab.plan import Plan, Run
from thalweg.lab.report import figures, write_report
from thalweg.lab.study import Result, Status, Study, TaskFacts
from thalweg.lab.summary import summarize
from thalweg.training import Record

EPOCHS = 4
OPTIMIZERS = ("sgd", "adam", "nadam", "rmsprop", "a<b>&\"'")
BOOM = "<b>boom</script><script>throw 1</script>"
CHROMIUM = shutil.which("chromium") or ""
in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")


def epoch(number: int, quality: float) -> Record:
    return Record(
        epoch=number,
        steps=100 * number,
        train_loss=1 / (number + quality),
        validation_loss=1.1 / (number + quality),
        metric=1 - 0.5 / (number + quality),
        seconds=0.1 * number * (1 + quality),
    )


def result(optimizer: str, seed: int) -> Result:
    quality = OPTIMIZERS.index(optimizer) / 10 + seed / 100
    status: Status = "finished"
    reason, completed = "", EPOCHS
    if optimizer == "rmsprop":
        status, reason, completed = "failed", BOOM, 0
    elif (optimizer, seed) == ("adam", 2):
        status, reason, completed = "diverged", "the training loss was inf at step 250", 2
    epochs = [epoch(n, quality) for n in range(1, completed + 1)]
    if status == "diverged":
        epochs[-1] = replace(epochs[-1], validation_loss=math.inf, train_loss=math.nan)
    settings = {} if status == "failed" else {"lr": 0.0012345678, "betas": (0.5, 1.0), "on": True}
    return Result(Run(optimizer, seed), status, reason, tuple(epochs), settings)


def study(optimizers: tuple[str, ...] = OPTIMIZERS, seeds: tuple[int, ...] = (0, 1, 2)) -> Study:
    plan = Plan("blobs", optimizers, "torch", None, EPOCHS, 32, seeds, None)
    return Study(
        plan=plan,
        task=TaskFacts("blobs", "Gaussian blobs & a line", "accuracy", True, EPOCHS, 32, None),
        results=tuple(result(run.optimizer, run.seed) for run in plan.runs()),
        environment={"command": "thalweg compare 'blobs' <x>", "torch": "2.9.0", "CPU": "8 x A"},
    )


def written(of: Study, folder: Path) -> str:
    write_report(of, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags with their attributes, the text outside scripts and styles, and each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem is None:
            self.text += data


def drawn(page: str) -> dict[str, Any]:
    def never(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    [data] = [s for s in Page(page).scripts if s.startswith('{"')]
    return json.loads(data, parse_constant=never)


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    page = Page(written(study(), tmp_path))
    loading = {"src", "srcset", "href", "data", "action", "poster", "xlink:href"}
    found = [v for _, attrs in page.tags for k, v in attrs.items() if k in loading]
    assert found
    assert all(v and v.startswith("#") for v in found)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    [style] = re.findall(r"<style>(.*?)</style>", written(study(), tmp_path), re.S)
    assert "url(" not in style
    assert "@import" not in style


def test_what_users_wrote_stays_text(tmp_path: Path) -> None:
    page = Page(written(study(), tmp_path))
    assert page.tags.count(("script", {})) == 3
    assert not any(s.startswith("throw") for s in page.scripts)
    assert BOOM in page.text
    assert OPTIMIZERS[-1] in page.text
    assert "thalweg compare 'blobs' <x>" in page.text


def test_plotly_reads_names_as_html() -> None:
    names = {
        t["name"] for f in figures(study(), summarize(study())) for t in f["data"] if "name" in t
    }
    assert unescape(next(n for n in names if n.startswith("a&lt;"))) == OPTIMIZERS[-1]
    assert not any("<" in name for name in names)


def test_every_optimizer_has_a_row_and_a_key(tmp_path: Path) -> None:
    page = Page(written(study(), tmp_path))
    for tag in ("tr", "button"):
        marked = [a["data-optimizer"] for t, a in page.tags if t == tag and "data-optimizer" in a]
        assert marked == [str(i) for i in range(len(OPTIMIZERS))]
    ranked = [a["data-value"] for _, a in page.tags if a.get("scope") == "row"]
    assert ranked == [row.optimizer for row in summarize(study()).rows]
    assert set(ranked) == set(OPTIMIZERS)


def test_the_verdict_is_whole_and_first(tmp_path: Path) -> None:
    page = Page(written(study(), tmp_path))
    text = " ".join(page.text.split())
    assert summarize(study()).verdict in text
    assert text.index(summarize(study()).headline) < text.index("Learning curves")


def test_curves_are_means_and_ranges_over_seeds_that_finished(tmp_path: Path) -> None:
    charts = drawn(written(study(), tmp_path))
    assert [f["layout"]["meta"]["id"] for f in charts["figures"]] == [
        "metric",
        "train_loss",
        "validation_loss",
    ]
    place = [row.optimizer for row in summarize(study()).rows].index("adam")
    training = charts["figures"][1]["data"]
    mine = {t["meta"]["role"]: t for t in training if t["meta"]["optimizer"] == place}
    seeds = [[epoch(n, 0.1 + s / 100).train_loss for s in (0, 1)] for n in range(1, EPOCHS + 1)]
    assert mine["mean"]["y"] == pytest.approx([sum(ys) / 2 for ys in seeds])
    assert mine["mean"]["meta"]["x"]["epochs"] == [1, 2, 3, 4]
    assert mine["mean"]["meta"]["x"]["seconds"][0] == pytest.approx(0.1 * (1 + 0.105))
    assert mine["band"]["y"] == pytest.approx(
        [max(ys) for ys in seeds] + [min(ys) for ys in reversed(seeds)]
    )
    assert mine["run"]["y"] == [pytest.approx(epoch(1, 0.12).train_loss), None]
    assert mine["run"]["name"] == "adam, seed 2: diverged"


def test_a_mean_over_a_seed_that_is_not_finite_is_a_gap() -> None:
    whole = study(("sgd",), (0, 1))
    first, second = whole.results
    broken = (replace(second.epochs[0], validation_loss=math.nan), *second.epochs[1:])
    gapped = replace(whole, results=(first, replace(second, epochs=broken)))
    validation = figures(gapped, summarize(gapped))[2]["data"]
    mean = next(t for t in validation if t["meta"]["role"] == "mean")
    assert mean["y"][0] is None
    assert None not in mean["y"][1:]


def test_the_leader_is_drawn_on_top(tmp_path: Path) -> None:
    charts = drawn(written(study(), tmp_path))
    assert charts["figures"][0]["data"][-1]["meta"]["optimizer"] == 0


def test_thirty_optimizers_look_different(tmp_path: Path) -> None:
    names = tuple(f"o{i}" for i in range(30))
    looks = drawn(written(replace(study(), plan=replace(study().plan, optimizers=names)), tmp_path))
    assert len({(look["hue"], look["dash"]) for look in looks["looks"]}) == 30


def test_runs_that_did_not_finish_are_listed_with_the_reason(tmp_path: Path) -> None:
    text = " ".join(Page(written(study(), tmp_path)).text.split())
    problems = text[text.index("Runs that did not finish") :]
    assert "rmsprop: failed with seeds 0, 1, 2 " + BOOM in problems
    assert "adam: diverged with seed 2 the training loss was inf at step 250" in problems
    assert re.search(r"Runs finished ?11 of 15 ?1 diverged ?3 failed", text)


def test_settings_are_given_in_full(tmp_path: Path) -> None:
    text = Page(written(study(), tmp_path)).text
    assert text.count("lr 0.0012345678 betas 0.5, 1 on on") == 4
    assert "not known: no run began" in text


@pytest.mark.parametrize(("target", "chosen"), [(0.875, "set before"), (None, "the median of")])
def test_the_page_says_how_the_target_was_chosen(
    tmp_path: Path, target: float | None, chosen: str
) -> None:
    given = replace(study(), plan=replace(study().plan, target=target))
    page = written(given, tmp_path)
    assert chosen in Page(page).text
    assert drawn(page)["figures"][0]["layout"]["meta"]["target"] == summarize(given).target


def test_without_a_finished_run(tmp_path: Path) -> None:
    page = written(study(("rmsprop",)), tmp_path)
    assert all(f["data"] == [] for f in drawn(page)["figures"])
    text = Page(page).text
    assert "No run finished" in text
    assert "no run completed an epoch" in text


def test_one_seed_has_neither_band_nor_interval(tmp_path: Path) -> None:
    page = written(study(seeds=(0,)), tmp_path)
    roles = {t["meta"]["role"] for f in drawn(page)["figures"] for t in f["data"]}
    assert roles == {"mean"}
    assert 'class="tie"' not in page
    assert "Bands over seeds" not in Page(page).text


def test_a_study_under_way_says_so(tmp_path: Path) -> None:
    assert "not ended yet" not in Page(written(study(), tmp_path)).text
    half = replace(study(), results=study().results[:7])
    assert "8 of the 15 planned runs have not ended yet" in Page(written(half, tmp_path)).text


def test_a_failed_write_leaves_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(study(), path)
    before = path.read_bytes()

    def full(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text[:100].encode(encoding))
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        write_report(study(("sgd",)), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_who_reads_the_old_report_keeps_it(tmp_path: Path) -> None:
    before = written(study(), tmp_path)
    with (tmp_path / "report.html").open(encoding="utf-8") as reading:
        assert written(study(("sgd",)), tmp_path) != before
        assert reading.read() == before


def after_loading(page: str, script: str, folder: Path) -> str:
    """The document as Chromium has it once it ran the page and then the script."""
    path = folder / "shown.html"
    waiting = f"<script>setTimeout(() => {{ {script} }}, 1000)</script></body>"
    path.write_text(page.replace("</body>", waiting), encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=8000 --dump-dom"
    )
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return shown.stdout


def order(document: str) -> list[str | None]:
    return [a["data-value"] for _, a in Page(document).tags if a.get("scope") == "row"]


@in_a_browser
@pytest.mark.parametrize(
    "of", [study(), study(seeds=(0,)), study(("rmsprop",)), study(("sgd", "adam"))], ids=str
)
def test_charts_are_drawn_without_an_error(of: Study, tmp_path: Path) -> None:
    document = after_loading(written(of, tmp_path), "", tmp_path)
    tag, attributes = Page(document).tags[0]
    assert tag == "html"
    assert "data-error" not in attributes
    assert document.count('class="main-svg"') >= 3
    finished = {r.run.optimizer for r in of.results if r.status == "finished"}
    assert document.count("js-line") >= 3 * len(finished)


@in_a_browser
def test_an_error_of_the_page_is_seen(tmp_path: Path) -> None:
    document = after_loading(written(study(), tmp_path), "throw new Error('seen')", tmp_path)
    assert "seen" in (Page(document).tags[0][1]["data-error"] or "")


@in_a_browser
def test_headings_sort_and_unknown_values_come_last(tmp_path: Path) -> None:
    page = written(study(), tmp_path)
    press = "[...document.querySelectorAll('th button')].at({}).click();"
    by_pace = sorted(
        (r for r in summarize(study()).rows if r.seconds_per_step is not None),
        key=lambda r: r.seconds_per_step or 0,
    )
    fastest = [r.optimizer for r in by_pace]
    # By name first, so that the one without a pace does not come last anyway.
    once = after_loading(page, 2 * press.format(1) + press.format(7), tmp_path)
    assert order(once) == [*fastest, "rmsprop"] != order(page)
    assert [a["aria-sort"] for _, a in Page(once).tags if "aria-sort" in a] == ["ascending"]
    twice = after_loading(page, press.format(1) + 2 * press.format(7), tmp_path)
    assert order(twice) == [*reversed(fastest), "rmsprop"]


@in_a_browser
def test_a_key_hides_its_optimizer_in_all_charts(tmp_path: Path) -> None:
    hide = "document.querySelector('.keys [data-optimizer=\"0\"]').click();"
    note = (
        "setTimeout(() => { document.body.dataset.shown = charts.map(c => c.data.filter(t => "
        "t.visible && t.meta.role === 'mean').length).join(); }, 500);"
    )
    page = written(study(), tmp_path)
    assert 'data-shown="4,4,4"' in after_loading(page, note, tmp_path)
    assert 'data-shown="3,3,3"' in after_loading(page, hide + note, tmp_path)
    alone = hide.replace(".click()", ".dispatchEvent(new MouseEvent('dblclick'))")
    assert 'data-shown="1,1,1"' in after_loading(page, alone + note, tmp_path)

"""The report is one file that is safe to open anywhere and shows every run, however it went."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import thalweg
from lab.studies import facts, made, outcomes, study, without
from thalweg.lab.contestant import contestant
from thalweg.lab.findings.summary import overall, summaries, summarize
from thalweg.lab.plan import Plan, TaskPlan
from thalweg.lab.report.page import write_report
from thalweg.lab.study import Study

EPOCHS = 4
AWKWARD = "a<b>&\"'"
BOOM = "<b>boom</script><script>throw 1</script>"
CHROMIUM = shutil.which("chromium") or ""
in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")


def marked(of: Study) -> Study:
    """With reasons, facts and a session in which text could be taken for HTML."""
    return replace(
        of,
        results=tuple(
            replace(r, reason=BOOM if r.reason == "boom" else r.reason) for r in of.results
        ),
        tasks={spec: replace(f, name="points & a <line>") for spec, f in of.tasks.items()},
        sessions=({"command": "thalweg compare 'points' <x>", "torch": "2.9.0", "CPU": "8 <A>"},),
    )


FIXED = marked(
    outcomes(
        {
            "sgd": [0.80, 0.81, 0.82],
            "adam": [0.90, 0.91, "nan"],
            "nadam": [0.93, 0.94, 0.95],
            "rmsprop": ["boom"] * 3,
            AWKWARD: [0.5, 0.6, 0.7],
        },
        epochs=EPOCHS,
    )
)
ONE_SEED = outcomes({"sgd": [0.8], "adam": [0.9]})
NOTHING = outcomes({"rmsprop": ["boom"] * 3})
TUNED = study(("adam", "sgd", "nag"), trials=8, seeds=4, diverges=10)
SEVERAL = study(
    {"sgd": 0.9, "adam": 0.9, "nag": 0.7, "adamw": 0.8},
    trials=6,
    seeds=4,
    tasks=("blobs", "rings", "moons"),
    target=0.6,
)
BEGUN = without(
    SEVERAL, lambda run: run.task == "moons" or (run.task == "rings" and run.optimizer == "nag")
)


def written(of: Study, folder: Path) -> str:
    write_report(of, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags with their attributes, the text outside scripts and styles, and each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw = ""
        self.scripts: list[str] = []
        self.feed(page)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(self.raw.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem is None:
            self.raw += data


def given(page: str) -> dict[str, Any]:
    def never(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    [data] = [s for s in Page(page).scripts if s.startswith('{"')]
    return json.loads(data, parse_constant=never)


def ranked(page: str, table: str) -> list[str | None]:
    """The names in one table, from top to bottom."""
    inside = page[page.index(f'<h2 id="{table}"') :]
    shown = Page(inside[: inside.index("</table>")])
    return [a["data-value"] for _, a in shown.tags if a.get("scope") == "row"]


@pytest.mark.parametrize("of", [FIXED, TUNED, SEVERAL], ids=["fixed", "tuned", "several"])
def test_nothing_is_loaded_from_elsewhere(of: Study, tmp_path: Path) -> None:
    text = written(of, tmp_path)
    page = Page(text)
    loading = {"src", "srcset", "href", "data", "action", "poster", "xlink:href"}
    found = [v for _, attrs in page.tags for k, v in attrs.items() if k in loading]
    assert all(v and v.startswith("#") for v in found)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    [style] = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert "url(" not in style
    assert "@import" not in style


def test_what_users_wrote_stays_text(tmp_path: Path) -> None:
    page = Page(written(FIXED, tmp_path))
    assert page.tags.count(("script", {})) == 3
    assert not any(s.startswith("throw") for s in page.scripts)
    for text in (BOOM, AWKWARD, "thalweg compare 'points' <x>", "points & a <line>", "8 <A>"):
        assert text in page.text


def test_plotly_reads_names_as_html(tmp_path: Path) -> None:
    charts = given(written(FIXED, tmp_path))
    assert unescape(charts["labels"][-1]) == charts["optimizers"][-1] == AWKWARD
    assert not any("<" in label for label in charts["labels"])
    named = replace(FIXED.tasks["blobs"], metric_name="<i>score</i>")
    charts = given(written(replace(FIXED, tasks={"blobs": named}), tmp_path))
    assert charts["tasks"][0]["metric"] == "&lt;i&gt;score&lt;/i&gt;"


@pytest.mark.parametrize("of", [FIXED, TUNED, SEVERAL], ids=["fixed", "tuned", "several"])
def test_every_optimizer_has_a_row_in_every_table_and_a_key(of: Study, tmp_path: Path) -> None:
    page = written(of, tmp_path)
    keys = [
        a["data-optimizer"] for t, a in Page(page).tags if t == "button" and "data-optimizer" in a
    ]
    assert keys == [str(i) for i in range(len(of.plan.optimizers))]
    for i, summary in enumerate(summaries(of)):
        for table in ("table", "speed", "stars"):
            assert ranked(page, f"{table}-{i}") == [row.optimizer for row in summary.rows]


def test_ids_are_given_once_and_every_label_refers_to_one(tmp_path: Path) -> None:
    tags = Page(written(SEVERAL, tmp_path)).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "aria-controls"):
        assert {a[name] for _, a in tags if name in a} <= set(ids)
    jumps = {a["href"] for _, a in tags if "href" in a}
    assert jumps <= {f"#{i}" for i in ids}


@pytest.mark.parametrize("of", [FIXED, TUNED], ids=["fixed", "tuned"])
def test_the_verdict_of_one_task_is_whole_and_first(of: Study, tmp_path: Path) -> None:
    text = Page(written(of, tmp_path)).text
    [summary] = summaries(of)
    assert text.index(summary.headline) < text.index(summary.detail) < text.index("Results")
    assert text.count(summary.headline) == 1


def test_several_tasks_begin_with_what_they_say_together(tmp_path: Path) -> None:
    page = written(SEVERAL, tmp_path)
    text = Page(page).text
    words = overall(SEVERAL).split()
    start = text.index(" ".join(words[:4]))
    assert all(word in text[start : start + 2000] for word in words)
    assert start < min(text.index(s.headline) for s in summaries(SEVERAL))
    panels = [a["aria-labelledby"] for _, a in Page(page).tags if a.get("role") == "tabpanel"]
    assert panels == ["tab-0", "tab-1", "tab-2"]
    rows = ranked(page, "overview")
    assert set(rows) == set(SEVERAL.plan.optimizers)
    # The one that is best or tied most often, which the made-up truth says.
    assert rows[0] in ("sgd", "adam")


def test_ties_are_marked_with_their_interval(tmp_path: Path) -> None:
    of = study({"sgd": 0.9, "adam": 0.9, "nag": 0.4}, seeds=5, noise=0.01)
    page = written(of, tmp_path)
    rows = summarize(of, "blobs").rows
    assert [row.ties for row in rows] == [True, True, False]
    body = page[page.index('<h2 id="table-0"') :].split("</tbody>")[0]
    cells = body.split("<tr data-optimizer")[1:]
    assert ['class="tie"' in cell for cell in cells] == [True, True, False]
    assert "leader" in cells[0]
    assert all(cell.count('class="interval"') == 1 for cell in cells[1:])
    assert rows[1].low is not None
    assert re.search(r"\u2212\d[\d.]* to \d", cells[1])


def test_the_budget_says_who_is_best_at_each_number_of_trials(tmp_path: Path) -> None:
    page = written(TUNED, tmp_path)
    budget = summarize(TUNED, "blobs").budget
    inside = page[page.index('<h2 id="budget-0"') :]
    lines = re.findall(r"<tr><th.*?</tr>", inside[: inside.index("</table>")], re.S)[1:]
    assert len(lines) == 4
    for line, count in zip(lines, (1, 2, 4, 8), strict=True):
        best = max(budget, key=lambda o: budget[o].expected[count - 1])
        assert re.search(r"<td>(\S+)", line).group(1) == best  # pyright: ignore
    assert "What a budget buys" not in written(FIXED, tmp_path)


def test_the_recipe_makes_the_chosen_optimizer(tmp_path: Path) -> None:
    page = written(TUNED, tmp_path)
    codes = re.findall(r"<pre[^>]*>(import thalweg.*?)</pre>", page, re.S)
    rows = summarize(TUNED, "blobs").rows
    assert len(codes) == len(rows)
    for row, code in zip(rows, codes, strict=True):
        import torch

        there: dict[str, Any] = {"model": torch.nn.Linear(2, 1)}
        exec(unescape(code), there)
        made_here = there["optimizer"]
        assert type(made_here).__name__.lower() == row.optimizer
        assert made_here.param_groups[0]["lr"] == pytest.approx(row.settings["lr"], rel=1e-3)


def test_a_rule_of_ones_own_has_no_recipe_once_it_is_gone(tmp_path: Path) -> None:
    @thalweg.rule("Own", paper="")
    def own(g: Any, theta: Any, *, lr: Any = thalweg.hyper(0.1, "[0, inf)", "rate")) -> Any:
        return lr * g

    entry = contestant(own, 1)
    tasks = (TaskPlan("blobs", 2, 8),)
    plan = Plan(tasks, (entry,), "paper", 1, (1, 2), rules={entry.name: own})
    whole = made(plan, lambda run: 0.9)
    assert "thalweg.Optimizer(model.parameters(), own" in written(whole, tmp_path)
    later = replace(whole, plan=Plan.from_json(plan.to_json()))
    text = Page(written(later, tmp_path)).text
    assert "was given as a Python object" in text


def test_runs_that_did_not_finish_are_listed_with_the_reason(tmp_path: Path) -> None:
    text = Page(written(FIXED, tmp_path)).text
    problems = text[text.index("Runs that did not finish") :]
    assert f"rmsprop: 3 runs failed {BOOM} (seed 0, seed 1, seed 2)" in problems
    assert "adam: 1 run diverged nan (seed 2)" in problems
    assert re.search(r"Runs finished ?11 of 15 ?1 diverged ?3 failed", text)


def test_thousands_of_lost_runs_stay_a_list_of_some(tmp_path: Path) -> None:
    lost = [replace(r, status="failed", reason=f"reason {i}") for i, r in enumerate(TUNED.results)]
    many = replace(TUNED, results=tuple(lost))
    text = Page(written(many, tmp_path)).text
    assert "adam: 8 trials failed" in text
    wide = study(("adam",), trials=64)
    lost = [replace(r, status="failed", reason=f"reason {i}") for i, r in enumerate(wide.results)]
    text = Page(written(replace(wide, results=tuple(lost)), tmp_path)).text
    assert "The other 44 are told by the list of every run." in text
    # And those of the three runs that judge.
    assert len(re.findall(r"reason \d+ \(", text)) == 20 + 3


def test_edges_are_flagged(tmp_path: Path) -> None:
    assert ">edge</b>" not in written(study(("sgd:lr=1e-6..10",), trials=8), tmp_path)
    narrow = study(("sgd:lr=1e-4..0.003",), trials=64, noise=0)
    assert summarize(narrow, "blobs").rows[0].edges == ("lr",)
    assert written(narrow, tmp_path).count(">edge</b>") == 1


def test_settings_are_given_in_full(tmp_path: Path) -> None:
    text = Page(written(TUNED, tmp_path)).text
    for row in summarize(TUNED, "blobs").rows:
        assert f"lr {row.settings['lr']}" in text
    none = replace(TUNED, results=(), sessions=())
    assert "not known: no trial was chosen yet" in Page(written(none, tmp_path)).text


@pytest.mark.parametrize("target", [0.875, None])
def test_the_page_says_where_the_target_comes_from(tmp_path: Path, target: float | None) -> None:
    of = study(("sgd", "adam"), target=target)
    page = written(of, tmp_path)
    summary = summarize(of, "blobs")
    assert summary.target_from in Page(page).text
    assert given(page)["tasks"][0]["target"] == summary.target


def test_the_plan_and_all_sessions_are_told(tmp_path: Path) -> None:
    sessions = (
        {
            "command": "thalweg compare a",
            "torch": "2.9",
            "processor ": "B",
            "code of a": '{"a.py": "12"}',
        },
        {
            "command": "thalweg compare --resume x",
            "torch": "3.0",
            "processor ": "B",
            "changed in a": "lr",
        },
    )
    results = tuple(replace(r, session=i % 2) for i, r in enumerate(TUNED.results))
    text = Page(written(replace(TUNED, sessions=sessions, results=results), tmp_path)).text
    repeat = text[text.index("How to repeat it") :]
    for shown in (
        TUNED.plan.hash,
        "thalweg compare a",
        "--resume x",
        "processor B",
        "a.py 12",
        "2.9",
        "3.0",
    ):
        assert shown in repeat
    assert repeat.count("processor B") == 1
    assert "tuned on 0, judged on 1, 2, 3, 4" in repeat


def test_without_a_finished_run(tmp_path: Path) -> None:
    page = written(NOTHING, tmp_path)
    assert given(page)["tasks"][0]["curves"]["lines"] == []
    text = Page(page).text
    assert summarize(NOTHING, "blobs").headline in text
    assert "import thalweg" not in text


def test_one_seed_has_neither_interval_nor_tie(tmp_path: Path) -> None:
    page = written(ONE_SEED, tmp_path)
    inside = page[page.index('<h2 id="table-0"') :].split("</tbody>")[0]
    assert 'class="tie"' not in inside
    assert 'class="interval"' in inside
    assert not re.search(r"\d to \S*\d", Page(inside).text)
    assert "Bands over seeds" not in Page(page).text


def test_a_study_under_way_says_so(tmp_path: Path) -> None:
    assert "not ended yet" not in Page(written(TUNED, tmp_path)).text
    half = replace(TUNED, results=TUNED.results[:7])
    assert f"{TUNED.plan.size - 7} of the {TUNED.plan.size} planned runs" in written(half, tmp_path)
    none = replace(TUNED, results=(), sessions=())
    assert "planned runs have not ended yet" in written(none, tmp_path)


def test_a_loss_as_metric_is_best_when_small(tmp_path: Path) -> None:
    of = study(("adam", "sgd"), trials=8, higher=False, has_test=False)
    page = written(of, tmp_path)
    assert "lower is better" in Page(page).text
    assert "the task has no test data" in Page(page).text
    assert not given(page)["tasks"][0]["higher"]
    tabled = re.findall(r'data-first="(\w+)"[^>]*>Validation score', page)
    assert tabled == ["ascending"]


def test_a_large_study_stays_small(tmp_path: Path) -> None:
    of = study(("adam", "sgd"), trials=200, seeds=3, epochs=50)
    many = replace(of, results=of.results * 25)
    assert len(many.results) > 10_000
    write_report(many, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 15e6


def test_a_failed_write_leaves_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(ONE_SEED, path)
    before = path.read_bytes()

    def full(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text[:100].encode(encoding))
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        write_report(NOTHING, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_who_reads_the_old_report_keeps_it(tmp_path: Path) -> None:
    before = written(ONE_SEED, tmp_path)
    with (tmp_path / "report.html").open(encoding="utf-8") as reading:
        assert written(NOTHING, tmp_path) != before
        assert reading.read() == before


def after_loading(page: str, script: str, folder: Path, place: str = "") -> tuple[str, list[str]]:
    """The document as Chromium has it once it ran the page and then the script; its console."""
    path = folder / "shown.html"
    waiting = f"<script>setTimeout(async () => {{ {script} }}, 1000)</script></body>"
    path.write_text(page.replace("</body>", waiting), encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr "
        "--window-size=1200,900 --virtual-time-budget=8000 --dump-dom"
    )
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, *flags.split(), profile, path.as_uri() + place]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return shown.stdout, [line for line in shown.stderr.splitlines() if ":CONSOLE" in line]


def noted(page: str, script: str, folder: Path, place: str = "") -> Any:
    """What the script puts into `note`, by which time nothing has gone wrong in the page."""
    pause = "const pause = () => new Promise(done => setTimeout(done, 600)); const note = {};"
    write = "document.body.dataset.note = JSON.stringify(note);"
    document, console = after_loading(page, f"{pause} {script} {write}", folder, place)
    tag, attributes = Page(document).tags[0]
    assert tag == "html"
    assert "data-error" not in attributes
    assert console == []
    note = next(a["data-note"] for t, a in Page(document).tags if t == "body")
    return json.loads(note or "")


LINES = """
const onLines = () => charts.filter(c => c.data && c.offsetParent).map(
  c => c.data.filter(t => t.visible && t.meta.role === 'mean').length);
"""


@in_a_browser
@pytest.mark.parametrize(
    ("of", "lines"),
    [
        (FIXED, [4, 4, 4]),
        (ONE_SEED, [2, 2, 2]),
        (NOTHING, [0, 0, 0]),
        (TUNED, [3, 3, 3, 3]),
        (SEVERAL, [4, 4, 4, 4, 4]),
        (BEGUN, [4, 4, 4, 4]),
        (replace(TUNED, results=(), sessions=()), []),
    ],
    ids=["fixed", "one-seed", "nothing", "tuned", "several", "begun", "not-begun"],
)
def test_charts_are_drawn_and_the_console_is_silent(
    of: Study, lines: list[int], tmp_path: Path
) -> None:
    assert noted(written(of, tmp_path), LINES + "note.lines = onLines();", tmp_path) == {
        "lines": lines
    }


@in_a_browser
def test_an_error_of_the_page_is_seen(tmp_path: Path) -> None:
    page = written(ONE_SEED, tmp_path)
    document, console = after_loading(page, "fetch('http://a.b'); null.x;", tmp_path)
    assert Page(document).tags[0][1]["data-error"]
    assert any("Content Security Policy" in line for line in console)


@in_a_browser
def test_headings_sort_and_unknown_values_come_last(tmp_path: Path) -> None:
    page = written(FIXED, tmp_path)
    script = """
      const table = document.querySelector('table.sortable');
      const heads = [...table.querySelectorAll('th button')];
      const press = name => heads.find(b => b.textContent === name).click();
      const names = () => [...table.tBodies[0].rows].map(r => r.cells[1].dataset.value);
      note.first = names();
      press('Optimizer'); press('Optimizer');
      press('Training loss'); note.once = names();
      note.sorted = [...table.querySelectorAll('[aria-sort]')].map(h => h.ariaSort);
      press('Training loss'); note.twice = names();
    """
    note = noted(page, script, tmp_path)
    rows = [r for r in summarize(FIXED, "blobs").rows if r.train_loss is not None]
    lowest = [r.optimizer for r in sorted(rows, key=lambda r: r.train_loss or 0)]
    assert note["first"] == [r.optimizer for r in summarize(FIXED, "blobs").rows]
    # By name first, so that the one without a loss does not come last anyway.
    assert note["once"] == [*lowest, "rmsprop"]
    assert note["twice"] == [*reversed(lowest), "rmsprop"]
    assert note["sorted"] == ["ascending"]


@in_a_browser
def test_a_key_hides_its_optimizer_everywhere(tmp_path: Path) -> None:
    script = (
        LINES
        + """
      const key = document.querySelector('.keys [data-optimizer="0"]');
      key.click(); await pause(); note.hidden = onLines(); note.pressed = key.ariaPressed;
      note.off = document.querySelectorAll('.panels .off').length;
      key.click(); await pause(); note.back = onLines();
      key.dispatchEvent(new MouseEvent('click', {shiftKey: true}));
      await pause(); note.alone = onLines();
      document.querySelector('[data-show=all]').click(); await pause(); note.all = onLines();
    """
    )
    note = noted(written(TUNED, tmp_path), script, tmp_path)
    assert note == {
        "hidden": [2] * 4,
        "pressed": "false",
        "off": 1,
        "back": [3] * 4,
        "alone": [1] * 4,
        "all": [3] * 4,
    }


@in_a_browser
def test_controls_change_what_is_drawn(tmp_path: Path) -> None:
    script = """
      const metric = charts.find(c => c.dataset.figure === 'metric');
      const bands = () => metric.data.filter(t => t.meta.role === 'band').length;
      note.bands = [bands()]; note.ends = [metric.data.at(-1).x.at(-1)];
      const press = async which => { document.querySelector(which).click(); await pause(); };
      await press('[data-control=bands]'); note.bands.push(bands());
      await press('[value=seconds]'); note.ends.push(metric.data.at(-1).x.at(-1));
      const loss = charts.find(c => c.dataset.figure === 'train_loss');
      note.types = [loss.layout.yaxis.type];
      await press('[data-control=log]'); note.types.push(loss.layout.yaxis.type);
    """
    note = noted(written(TUNED, tmp_path), script, tmp_path)
    assert note["bands"] == [3, 0]
    assert note["types"] == ["linear", "log"]
    assert note["ends"][0] == 5
    assert note["ends"][1] != 5


@in_a_browser
def test_tabs_choose_the_task_with_mouse_keys_and_address(tmp_path: Path) -> None:
    page = written(SEVERAL, tmp_path)
    script = """
      const on = () => [...document.querySelectorAll('.task')].map(t => !t.hidden).indexOf(true);
      const tabs = [...document.querySelectorAll('[role=tab]')];
      const press = key => document.activeElement.dispatchEvent(
        new KeyboardEvent('keydown', {key, bubbles: true}));
      note.first = on();
      tabs[2].click(); note.clicked = on(); note.address = location.hash;
      tabs[2].focus(); press('ArrowRight');
      note.round = on(); note.focus = document.activeElement.id;
      press('End'); note.last = on();
      note.selected = tabs.map(t => t.ariaSelected); note.stops = tabs.map(t => t.tabIndex);
      await pause(); note.drawn = charts.filter(c => c.offsetParent).every(c => c.data);
    """
    note = noted(page, script, tmp_path, "#rings")
    assert note == {
        "first": 1,
        "clicked": 2,
        "address": "#moons",
        "round": 0,
        "focus": "tab-0",
        "last": 2,
        "selected": ["false", "false", "true"],
        "stops": [-1, -1, 0],
        "drawn": True,
    }


@in_a_browser
def test_every_run_is_there_on_demand(tmp_path: Path) -> None:
    script = """
      const details = document.querySelector('details.runs');
      const rows = () => [...details.querySelectorAll('tbody > tr:not(.detail)')];
      const set = (name, value) => {
        const filter = details.querySelector(`[data-filter=${name}]`);
        filter.value = value; filter.dispatchEvent(new Event('input'));
      };
      note.before = rows().length;
      details.open = true; await pause();
      note.listed = rows().length; note.told = details.querySelector('[role=status]').textContent;
      set('judges', '1'); note.judging = rows().length;
      set('optimizer', '1'); note.mine = rows().map(r => r.cells[0].textContent);
      set('judges', ''); set('text', 'no such thing'); note.none = rows().length;
      set('text', ''); set('optimizer', '');
      const heads = [...details.querySelectorAll('thead button')];
      heads.find(b => b.textContent === 'Validation score').click();
      note.best = rows()[0].cells[4].textContent;
      const open = rows()[0].querySelector('button'); open.click(); await pause();
      const detail = details.querySelector('tr.detail');
      note.settings = detail.textContent; note.curves = detail.querySelector('.chart').data.length;
      open.click(); note.closed = details.querySelectorAll('tr.detail').length;
    """
    note = noted(written(TUNED, tmp_path), script, tmp_path)
    count = len(TUNED.results)
    assert (note["before"], note["listed"]) == (0, count)
    assert note["told"].startswith(f"{count} of {count} runs")
    assert note["judging"] == 12
    assert note["mine"] == ["sgd"] * 4
    assert note["none"] == 0
    best = max(
        (r for r in TUNED.results if r.status == "finished"), key=lambda r: r.epochs[-1].metric
    )
    assert float(note["best"]) == pytest.approx(best.epochs[-1].metric, rel=1e-3)
    assert f"lr {best.settings['lr']}" in " ".join(note["settings"].split())
    assert (note["curves"], note["closed"]) == (3, 0)


@in_a_browser
def test_long_lists_come_in_pages(tmp_path: Path) -> None:
    script = """
      const details = document.querySelector('details.runs');
      details.open = true; await pause();
      const count = () => details.querySelectorAll('tbody tr').length;
      note.counts = [count()]; details.querySelector('.more').click(); note.counts.push(count());
    """
    long = study(("adam",), trials=64)
    assert noted(written(long, tmp_path), script, tmp_path)["counts"] == [50, len(long.results)]


@in_a_browser
def test_the_code_is_copied(tmp_path: Path) -> None:
    script = """
      let copied = '';
      navigator.clipboard.writeText = async text => { copied = text; };
      const button = document.querySelector('.copy'); button.click(); await pause();
      note.copied = copied; note.label = button.textContent;
    """
    note = noted(written(TUNED, tmp_path), script, tmp_path)
    assert note["copied"].startswith("import thalweg")
    assert note["label"] == "Copied"


@in_a_browser
def test_in_print_every_task_is_drawn(tmp_path: Path) -> None:
    script = """
      dispatchEvent(new Event('beforeprint'));
      note.drawn = charts.map(c => Boolean(c.data)); note.widths = charts.map(c => c.layout?.width);
    """
    note = noted(written(SEVERAL, tmp_path), script, tmp_path)
    assert note["drawn"] == [True] * (1 + 3 * 4)
    assert set(note["widths"]) == {680}


def test_facts_are_those_of_the_task(tmp_path: Path) -> None:
    named = facts("blobs", epochs=3)
    text = Page(written(replace(TUNED, tasks={"blobs": named}), tmp_path)).text
    assert re.search(r"Parameters ?1,000", text)
    assert re.search(r"Batch size ?32", text)

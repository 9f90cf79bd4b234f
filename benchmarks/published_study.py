"""The study that docs/ publishes: its runs, its report, its tables, its picture, its claims.

    THALWEG_DATA=/path/to/data python benchmarks/published_study.py

Runs that docs/study and docs/study/deep-mlp hold already are not run again; to have them run anew,
take those folders away. The picture needs Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import claims

from thalweg.lab.findings.summary import Row, Summary, overall, summaries
from thalweg.lab.records.store import Store
from thalweg.lab.study import Study
from thalweg.pages import digits
from thalweg.rules import OPTIMIZERS

DOCS = Path(__file__).parents[1] / "docs"
STUDY, DEEP = DOCS / "study", DOCS / "study" / "deep-mlp"
BUDGET = ("--trials", "16", "--seeds", "5")
ORDERS = {
    STUDY: (
        *("digits", "fashion-mnist", "mnist", "--epochs", "20,10,2"),
        *("--optimizers", ",".join((*OPTIMIZERS, "l2+adam"))),
    ),
    DEEP: (
        *("benchmarks/deep_mlp.py", "--epochs", "3"),
        *("--optimizers", "sgd,noise+sgd,adam,noise+adam"),
    ),
}


def thalweg(*words: str) -> None:
    """Carry out a command in the repository's folder."""
    command = [sys.executable, "-m", "thalweg", *words]
    subprocess.run(command, check=True, cwd=DOCS.parent)


def carried_out(folder: Path) -> Study:
    """A study with nothing left to run, its report and its tables beside it."""
    where = str(folder.relative_to(DOCS.parent))
    if (folder / "results.sqlite").exists():
        thalweg("compare", "--resume", where)
    else:
        thalweg("compare", *ORDERS[folder], *BUDGET, "--out", where)
    thalweg("export", where, "--csv")
    study = read(folder)
    # Neither belongs to what is published.
    for left in (folder / "lock", *folder.glob("results-format-*.sqlite")):
        left.unlink(missing_ok=True)
    return study


def read(folder: Path) -> Study:
    """What a folder's store holds, which is one file afterwards."""
    store = Store.open(folder)
    study = store.study()
    store.close()
    return study


def page(study: Study) -> str:
    """docs/study.md."""
    plan = study.plan
    ended = len(study.results)
    parts = [
        "# A study of all optimizers",
        "",
        f"{len(plan.optimizers)} optimizers, {plan.trials} trials of each over its declared search "
        f"space, the best configuration of each judged on {len(plan.seeds)} fresh seeds by the "
        f"test data: {ended:,} runs. [The whole report](study/report.html) is one page to download "
        "and open; [runs.csv](study/runs.csv) and [curves.csv](study/curves.csv) are its tables, "
        "and [results.sqlite](study/results.sqlite) is [the store](store.md). "
        "[Folklore, tested](claims.md) is what it says to what people say. "
        "`python benchmarks/published_study.py` makes all of it.",
        "",
        "The runs shared their machine with other work, so take no seconds from them: steps, "
        "epochs and metrics are not affected.",
        "",
        f"**{overall(study)}**",
        "",
    ]
    for summary in summaries(study):
        parts += [*section(summary, plan.task(summary.task).epochs), ""]
    return "\n".join(parts)


def section(summary: Summary, epochs: int) -> list[str]:
    """The verdict on one task and its table."""
    facts = summary.facts
    heading = [
        *("optimizer", f"{facts.metric_name} on the {summary.judged_on} data", "behind the leader"),
        *("95% interval", "tie", "defaults behind best trial", "decades of learning rate", "stars"),
    ]
    rows = (_cells(row) for row in summary.rows)
    return [
        f"## {facts.name}",
        "",
        f"{facts.about}; {epochs} epochs. {summary.verdict}",
        "",
        *claims.table(heading, rows),
        "",
        f"Target: {summary.target_from}",
    ]


def _cells(row: Row) -> list[str]:
    def shown(value: float | None, form: str = ".4f") -> str:
        return "–" if value is None else format(value, form)

    spread = "" if row.spread is None else f" ± {digits(row.spread, 2)}"
    interval = "–" if row.low is None or row.high is None else f"{row.low:.4f} to {row.high:.4f}"
    stars = ("–" if n is None else "★" * n for n in (row.speed_stars, row.quality_stars))
    return [
        row.optimizer,
        shown(row.metric) + spread,
        shown(row.difference),
        interval,
        "tie" if row.ties else "",
        shown(row.default_gap),
        shown(row.lr_width, ".1f"),
        " / ".join(stars),
    ]


def picture(report: Path, to: Path) -> None:
    """The verdict on Fashion-MNIST and its budget curve, as the report shows them."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("the picture needs Chromium.")
    html = report.read_text(encoding="utf-8").replace("</head>", f"{_ALONE}</head>", 1)
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "alone.html"
        alone.write_text(html, encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--virtual-time-budget=8000", "--window-size=1180,1150"]
        command += [f"--screenshot={to}", f"{alone.as_uri()}#fashion-mnist"]
        subprocess.run(command, check=True, capture_output=True)


_ALONE = """<style>
main > section, .task > .glance, .task > section:not(:first-of-type), .each, footer,
header > :not(.mark), .hint { display: none }
.task .scroll { border: 0 }
header { padding-top: 1.2rem }
.bar-top { margin: 0.4rem 0 0 }
</style>"""


def main() -> None:
    """Make what is published."""
    study, deep = carried_out(STUDY), carried_out(DEEP)
    (DOCS / "study.md").write_text(page(study).rstrip() + "\n", encoding="utf-8")
    claims.PAGE.write_text(claims.page(study, deep).rstrip() + "\n", encoding="utf-8")
    # What it says stands on the page of claims.
    (DEEP / "report.html").unlink()
    picture(STUDY / "report.html", DOCS / "report.png")


if __name__ == "__main__":
    main()

"""Draw the picture of docs/schedules.md, and write its table from the schedules themselves."""

from pathlib import Path

from thalweg.schedules import SCHEDULES
from thalweg.schedules.drawing import write_png
from thalweg.schedules.spelling import example

DOCS = Path(__file__).parent
BEGIN, END = "<!-- table -->\n", "<!-- end -->"
STEPS = 100


def table() -> str:
    rows = [f"| `{n}` | {f.doc.splitlines()[0]} | {f.source} |" for n, f in SCHEDULES.items()]
    return "\n".join(["| schedule | what it does | source |", "| --- | --- | --- |", *rows, ""])


def written(page: str) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def main() -> None:
    page = DOCS / "schedules.md"
    page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
    # A warm-up alone is the first part of the joined one.
    curves = {n: example(n).over(STEPS) for n in SCHEDULES if n != "warmup"}
    write_png(curves, STEPS, DOCS / "schedules.png")


if __name__ == "__main__":
    main()

"""Runs whose results are appended to a file of JSON lines, so that none is done twice."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

__all__ = ["carry_out", "put_into", "stored"]


def stored(path: Path) -> list[dict[str, Any]]:
    """The results that a file holds: `{"run": settings, ...}` each; none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def carry_out(
    plan: Iterable[Mapping[str, Any]],
    run: Callable[..., Mapping[str, Any]],
    path: Path,
    processes: int,
) -> list[dict[str, Any]]:
    """Carry out the runs of a plan that a file does not hold yet, in processes of one thread each.

    Args:
        plan: the settings of each run, which are the arguments of `run`.
        run: returns the result of one; must be at the top of its module.
        path: where results are appended.
        processes: how many at once.

    Returns:
        The results of the whole plan.
    """
    wanted = [dict(settings) for settings in plan]
    done = [result["run"] for result in stored(path)]
    left = [settings for settings in wanted if settings not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    # For the processes, which read it before anything else.
    os.environ["OMP_NUM_THREADS"] = "1"
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawned, _single_thread) as pool, path.open("a") as file:
        running = {pool.submit(run, **settings): settings for settings in left}
        for count, future in enumerate(as_completed(running), 1):
            line = json.dumps({"run": running[future], **future.result()})
            print(f"{count} of {len(left)}: {line}", flush=True)
            file.write(line + "\n")
            file.flush()
    return [result for result in stored(path) if result["run"] in wanted]


def put_into(page: Path, name: str, text: str) -> None:
    """Put text into a page, between `<!-- name -->` and the next `<!-- end -->`."""
    begin, end = f"<!-- {name} -->\n", "<!-- end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}{text}\n{end}{after}", encoding="utf-8")


def _single_thread() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

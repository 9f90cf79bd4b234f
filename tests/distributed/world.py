"""Several processes on this machine that talk by gloo, and what each of them checks.

To start processes takes longer than most checks, so those of one number of processes are run in
one go, and each test asks how its own went.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

PRELOADED = [
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.optim",
    "torch.distributed.tensor.parallel",
    "torch.testing",
    "thalweg.optim",
]
"""What all processes need, and is imported once, before they are forked from where it is."""
PATIENCE = 120
"""Seconds after which a process that waits for another gives up."""


@dataclass(frozen=True)
class World:
    """What a process knows of where it is.

    Attributes:
        rank: which of the processes it is.
        size: how many there are.
        directory: what all of them, and those of other worlds, can read and write.
        mesh: all of them in one dimension.
    """

    rank: int
    size: int
    directory: Path
    mesh: DeviceMesh

    def own(self, batch: Tensor) -> Tensor:
        """This process's part of a batch."""
        return batch.chunk(self.size)[self.rank]


Check = Callable[[World], None]


@dataclass(frozen=True)
class Outcome:
    """How the checks of a world went.

    Attributes:
        passed: the names of those that every process has passed.
        error: what ended the run before all had; empty if nothing did.
    """

    passed: frozenset[str]
    error: str


def outcome(size: int, checks: Mapping[str, Check], directory: Path) -> Outcome:
    """Run checks, one after the other, in so many processes."""
    report = directory / f"passed-{size}"
    report.touch()
    multiprocessing.set_forkserver_preload(PRELOADED)
    context = multiprocessing.start_processes(
        _process,
        (size, checks, directory, report),
        nprocs=size,
        join=False,
        daemon=True,
        start_method="forkserver",
    )
    end = time.monotonic() + PATIENCE
    error = ""
    try:
        # One that raises ends all.
        while not context.join(timeout=1):
            if time.monotonic() > end:
                error = f"not done after {PATIENCE} s"
                break
    except (multiprocessing.ProcessRaisedException, multiprocessing.ProcessExitedException) as e:
        error = str(e)
    finally:
        for process in context.processes:
            process.kill()
            process.join()
    return Outcome(frozenset(report.read_text().split("\n")), error)


def _process(
    rank: int, size: int, checks: Mapping[str, Check], directory: Path, report: Path
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{directory}/meeting-{size}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=PATIENCE / 2),
    )
    try:
        world = World(rank, size, directory, init_device_mesh("cpu", (size,)))
        for name, check in checks.items():
            try:
                check(world)
            except BaseException as e:
                raise AssertionError(f"{name}, process {rank} of {size}") from e
            distributed.barrier()
            if rank == 0:
                with report.open("a") as file:
                    file.write(f"{name}\n")
    finally:
        distributed.destroy_process_group()

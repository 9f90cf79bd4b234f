"""What each way of treating memory does to a step of AdamW, beside the way that kernels are made.

    python benchmarks/memory_trials.py [--elements N] [--rounds N]

All variants are timed in turns within one run. A ratio below 1 says that the variant is faster. The
threads' affinity is the whole process's: run it again under OMP_PROC_BIND=true and compare the
times of `as it is`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from llvmlite import ir
from torch import Tensor

from thalweg import rules
from thalweg.backends import compilation, fused, lowering, memory
from thalweg.backends.program import program
from thalweg.rules import chain
from thalweg.rules.reference import inputs

RULE = chain(rules.adam, rules.decay)


@contextmanager
def patched(place: object, name: str, value: object) -> Iterator[None]:
    old = getattr(place, name)
    setattr(place, name, value)
    fused.kernel.cache_clear()
    yield
    setattr(place, name, old)
    fused.kernel.cache_clear()


def streaming(kernel, name: str, value, address, lanes: int) -> None:
    """Stores that go past the caches; they need addresses that are multiples of a vector's size."""
    store = kernel.at.store(value, address)
    store.align = 4
    if lanes > 1:
        store.align = lanes * 4
        mark = kernel.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        store.set_metadata("nontemporal", mark)


def prefetch(write: int, locality: int) -> Callable[..., None]:
    def made(kernel, place) -> None:
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(), number, number, number])
        function = lowering.external(kernel.module, "llvm.prefetch.p0", kind)
        distance = ir.Constant(ir.IntType(64), lowering._PREFETCHED)
        ahead = kernel.at.gep(place, [distance], source_etype=ir.IntType(8))
        kernel.at.call(function, [ahead, *(ir.Constant(number, x) for x in (write, locality, 1))])

    return made


def tensors(elements: int, *, huge: str) -> dict[str, list[Tensor]]:
    """Parameter, gradient and states; `huge` says which lie on huge pages."""

    def made(name: str, value: float) -> Tensor:
        on_huge = huge == "all" or (huge == "states" and name in "mv")
        like = torch.empty(elements)
        return (
            memory.filled(like, value, torch.float32) if on_huge else torch.full_like(like, value)
        )

    values = {"theta": 0.5, "g": 1e-2, "m": 0.1, "v": 0.1}
    return {name: [made(name, value)] for name, value in values.items()}


KEPT: list[object] = []


def variants(elements: int) -> dict[str, fused.Pass]:
    settings = RULE.settings("torch")
    made = program(RULE.trace(settings))
    usual = tensors(elements, huge="states")

    def bound(on: dict[str, list[Tensor]] = usual, chunk: int | None = None) -> fused.Pass:
        KEPT.append(on)
        return fused.Pass(made, on, [0], chunk=chunk)

    found = {"as it is": bound()}
    for name, huge in (("no huge pages", "none"), ("huge pages for all tensors", "all")):
        found[name] = bound(tensors(elements, huge=huge))
    for chunk in (1 << 12, 1 << 14, 1 << 18):
        found[f"chunks of {chunk} elements, not {fused._CHUNK}"] = bound(chunk=chunk)
    with patched(lowering._Kernel, "_prefetched", lambda kernel, place: None):
        found["no prefetch"] = bound()
    distance_now = lowering._PREFETCHED
    for distance in (256, 4096, 16384):
        with patched(lowering, "_PREFETCHED", distance):
            found[f"prefetch {distance} bytes ahead, not {distance_now}"] = bound()
    for name, kind in (("to write", (1, 3)), ("to the second level", (0, 2)), ("once", (0, 0))):
        with patched(lowering._Kernel, "_prefetched", prefetch(*kind)):
            found[f"prefetch {name}"] = bound()
    if all(x.data_ptr() % 64 == 0 for row in usual.values() for x in row):
        with patched(lowering._Kernel, "stored", streaming):
            found["streaming stores"] = bound()
    if compilation.vector_bytes() == 64:
        with patched(compilation, "vector_bytes", lambda: 32):
            found["vectors of 32 bytes, not 64"] = bound()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=1 << 25)
    parser.add_argument("--rounds", type=int, default=40)
    chosen = parser.parse_args()
    passes = variants(chosen.elements)
    settings = RULE.settings("torch")
    numbers, _ = program(RULE.trace(settings)).scalars({**inputs(settings), "t": 10.0})
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(chosen.rounds + 2):
        for name, one in passes.items():
            start = time.perf_counter()
            one(numbers)
            times[name].append(time.perf_counter() - start)
    usual = times["as it is"][2:]
    moved = 7 * 4 * chosen.elements
    print(f"{chosen.elements} parameters, {torch.get_num_threads()} threads")
    print("| variant | ms | GB/s | ratio |\n| --- | ---: | ---: | ---: |")
    for name, found in times.items():
        middle = statistics.median(found[2:])
        ratio = statistics.median(a / b for a, b in zip(found[2:], usual, strict=True))
        print(f"| {name} | {middle * 1e3:.2f} | {moved / middle / 1e9:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()

"""Run a kernel on several threads: those that torch's own operations run on.

torch's threads are OpenMP's. A second team beside them would compete for the same cores, so the
kernel is given to the very library that torch is linked to.
"""

import ctypes
import multiprocessing
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from thalweg.backends import compilation

__all__ = ["run"]


def run(kernel: int, job: int, threads: int) -> None:
    """Call the function at the address `kernel` with the address `job`, on so many threads.

    One thread is used where torch is not built with OpenMP, and in a forked process: the team's
    other threads have stayed in the process that was forked, and waiting for them never ends.
    """
    parallel = _parallel() if threads > 1 and not _forked else None
    if parallel is None:
        _single(kernel)(job)
    else:
        _start()(parallel, kernel, job, threads)


@cache
def _single(kernel: int) -> Any:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)


@cache
def _start() -> Any:
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_uint)
    return kind(compilation.address(_X86 if compilation.is_x86() else _OTHER, "start"))


# torch.set_flush_denormal and the like are each thread's own: what the caller has chosen is put
# into the job, for the others to follow.
_OTHER = """
define void @start(ptr %parallel, ptr %kernel, ptr %job, i32 %threads) {
  call void %parallel(ptr %kernel, ptr %job, i32 %threads, i32 0)
  ret void
}
"""
_X86 = """
declare void @llvm.x86.sse.stmxcsr(ptr)
define void @start(ptr %parallel, ptr %kernel, ptr %job, i32 %threads) {
  %mode = getelementptr i64, ptr %job, i64 3
  call void @llvm.x86.sse.stmxcsr(ptr %mode)
  call void %parallel(ptr %kernel, ptr %job, i32 %threads, i32 0)
  ret void
}
"""


@cache
def _parallel() -> int | None:
    """OpenMP's function that runs another on a team; None if torch is not linked to it."""
    name = {"darwin": "libtorch_cpu.dylib", "win32": "torch_cpu.dll"}.get(
        sys.platform, "libtorch_cpu.so"
    )
    try:
        # A library finds the functions of those it is linked to, so it is torch's own OpenMP.
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / name))
        return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


def _in_child() -> None:
    global _forked
    _forked = True


def _started_by_fork() -> bool:
    if multiprocessing.parent_process() is None:
        return False
    method = getattr(multiprocessing.current_process(), "_start_method", None)
    return (method or multiprocessing.get_start_method()) == "fork"


_forked = _started_by_fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

"""Kernels are compiled once per machine, and whatever has happened to the cache, rightly used."""

import ctypes
import gc
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import llvmlite
import pytest
import torch

import thalweg as tw
from thalweg.backends import compilation, fused

FIRST_USE, FROM_CACHE = 2.0, 0.3
"""Seconds that the first step of a rule may take, when its kernel is compiled and when not."""


def source(number: int) -> str:
    return f"define i64 @kernel() {{ ret i64 {number} }}"


def called(number: int) -> int:
    """What the function returns; it has been compiled or loaded for that."""
    return ctypes.CFUNCTYPE(ctypes.c_int64)(compilation.address(source(number)))()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for kernels."""
    monkeypatch.setenv("THALWEG_CACHE", str(tmp_path))
    return tmp_path / "kernels"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The sources that are compiled, in order, in a process that has loaded none yet."""
    sources: list[str] = []
    optimised = compilation._optimised

    def noted(text: str, machine: object) -> object:
        sources.append(text)
        return optimised(text, machine)

    monkeypatch.setattr(compilation, "_optimised", noted)
    monkeypatch.setattr(compilation, "_engines", {})
    yield sources
    forget()


_FORGOTTEN: list[object] = []


def forget() -> None:
    """As in a new process: what has been loaded is not known any more.

    It is not freed, as a kernel among it may be called again.
    """
    _FORGOTTEN.extend(compilation._engines.values())
    compilation._engines.clear()


def written(folder: Path) -> dict[Path, tuple[int, int]]:
    """The files, each with its identity and the time at which it was last written."""
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()}


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


# The file alone, as importing torch takes longer than all that is done with it.
ALONE = f"""
import ctypes, importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("compilation", {compilation.__file__!r})
compilation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compilation)

def called(number):
    source = f"define i64 @kernel() {{{{ ret i64 {{number}} }}}}"
    return ctypes.CFUNCTYPE(ctypes.c_int64)(compilation.address(source))()
"""


def test_code_is_compiled_once_and_then_taken_from_disk(cache: Path, compiled: list[str]) -> None:
    assert called(42) == 42
    assert called(42) == 42
    assert len(compiled) == 1
    before = written(cache)
    assert len(before) == 1
    forget()
    assert called(42) == 42
    assert len(compiled) == 1
    assert written(cache) == before
    assert called(43) == 43
    assert len(compiled) == 2


STEPS = """
import sys, time, json
import torch
{before}
import thalweg
seconds, ends = [], []
torch.optim.SGD([torch.ones(1)])  # the first optimizer of all makes torch import its compiler
for name in {names}:
    p = torch.linspace(-1, 1, 37).requires_grad_()
    p.grad = torch.cos(p.detach())
    begun = time.perf_counter()
    optimizer = getattr(thalweg, name)([p], backend="fused")
    optimizer.step()
    seconds.append(time.perf_counter() - begun)
    optimizer.step()
    ends.append(p.detach().numpy().tobytes().hex())
print(json.dumps([seconds, ends, {after}]))
"""
SPY = """
from llvmlite import binding
compiled = []
class Spied(binding.TargetMachine):
    def emit_object(self, module):
        compiled.append(str(module))
        return super().emit_object(module)
binding.targets.TargetMachine = Spied
"""


def steps(cache: Path, names: list[str], *, spied: bool = False) -> tuple[list, list, int]:
    before, after = (SPY, "len(compiled)") if spied else ("", "0")
    code = STEPS.format(before=before, names=names, after=after)
    done = python(code, THALWEG_CACHE=str(cache.parent))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return tuple(json.loads(done.stdout))


def test_a_rules_first_step_is_soon_taken_and_compiled_only_once(cache: Path) -> None:
    names = ["Adam", "SGD", "NAdam", "Adamax", "AggMo", "RMSprop", "QHAdam"]
    first, ends, _ = steps(cache, names)
    assert max(first) <= FIRST_USE
    files = written(cache)
    assert len(files) > len(names)
    later, again, count = steps(cache, names, spied=True)
    assert count == 0
    assert max(later) <= FROM_CACHE
    assert again == ends
    assert written(cache) == files
    next(iter(files)).unlink()
    assert steps(cache, names, spied=True)[2] == 1


OTHERS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "llvmlite": lambda patch: patch.setattr(llvmlite, "__version__", "0.0.1"),
    "LLVM": lambda patch: patch.setattr(compilation.binding, "llvm_version_info", (0, 0, 1)),
    "processor": lambda patch: patch.setattr(compilation, "_cpu", lambda: "generic"),
    "features": lambda patch: patch.setattr(compilation, "features", lambda: ""),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_code_made_by_or_for_something_else_is_not_used(
    cache: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch, change
) -> None:
    assert called(42) == 42
    forget()
    change(monkeypatch)
    assert called(42) == 42
    assert len(compiled) == 2
    assert len([*cache.iterdir()]) == 2


def overwritten(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(change(file.read_bytes())) and None


def others_code(file: Path) -> None:
    """A sound file, but of another function."""
    called(666)
    (other,) = (path for path in file.parent.iterdir() if path != file)
    other.replace(file)


def folder_in_its_place(file: Path) -> None:
    file.unlink()
    (file / "x").mkdir(parents=True)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": overwritten(lambda content: b""),
    "one byte": overwritten(lambda content: content[:1]),
    "header only": overwritten(lambda content: content[:32]),
    "truncated": overwritten(lambda content: content[:-1]),
    "half": overwritten(lambda content: content[: len(content) // 2]),
    "longer": overwritten(lambda content: content + b"\0"),
    "twice": overwritten(lambda content: content * 2),
    "without header": overwritten(lambda content: content[32:]),
    "garbage": overwritten(lambda content: b"\x7fELF garbage"),
    "garbage behind the header": overwritten(lambda content: content[:32] + b"\xcc" * 500),
    "garbage with its own sum": overwritten(lambda content: sha256(b"\xcc").digest() + b"\xcc"),
    "zeros": overwritten(lambda content: bytes(len(content))),
    "another function": others_code,
    "a folder": folder_in_its_place,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_replaced_and_never_loaded(
    cache: Path, compiled: list[str], damage
) -> None:
    called(42)
    (file,) = cache.iterdir()
    sound = file.read_bytes()
    damage(file)
    forget()
    compiled.clear()
    assert called(42) == 42
    assert compiled == [source(42)]
    assert [*cache.iterdir()] == [file]
    if not file.is_dir():
        assert file.read_bytes() == sound


def test_a_file_with_any_bit_flipped_is_replaced(
    cache: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called(42)
    (file,) = cache.iterdir()
    sound = file.read_bytes()
    key = compilation._key(source(42))
    # To look is enough: what is not trusted would be compiled.
    monkeypatch.setattr(compilation, "_optimised", lambda *_: pytest.fail("compiled"))
    assert compilation._code(source(42), key) == sound[32:]
    for place in range(len(sound)):
        flipped = bytearray(sound)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        with pytest.raises(pytest.fail.Exception, match="compiled"):
            compilation._code(source(42), key)


def file_in_the_way(tmp_path: Path, patch: pytest.MonkeyPatch) -> str:
    (tmp_path / "file").write_text("in the way")
    return str(tmp_path / "file")


def below_a_file(tmp_path: Path, patch: pytest.MonkeyPatch) -> str:
    return file_in_the_way(tmp_path, patch) + "/a/b"


def kernels_is_a_file(tmp_path: Path, patch: pytest.MonkeyPatch) -> str:
    (tmp_path / "kernels").write_text("in the way")
    return str(tmp_path)


def nowhere_to_write(tmp_path: Path, patch: pytest.MonkeyPatch) -> str:
    return "/proc/thalweg"


def read_only(tmp_path: Path, patch: pytest.MonkeyPatch) -> str:
    """The superuser may write to such folders, so the system's answer is given here."""

    def denied(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    patch.setattr(tempfile, "mkstemp", denied)
    return str(tmp_path)


def full_disk(tmp_path: Path, patch: pytest.MonkeyPatch) -> str:
    class Full:
        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, content: bytes) -> None:
            raise OSError(28, "No space left on device")

    def opened(number: int, mode: str) -> Full:
        os.close(number)
        return Full()

    patch.setattr(compilation.os, "fdopen", opened)
    return str(tmp_path)


def no_such_user(tmp_path: Path, patch: pytest.MonkeyPatch) -> str:
    return "~nobody-of-this-name/cache"


def no_home(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    for name in ("THALWEG_CACHE", "HOME", "XDG_CACHE_HOME"):
        patch.delenv(name, raising=False)
    patch.setattr(pwd, "getpwuid", unknown)


def home_left_as_written(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    """What platformdirs once made of it."""
    patch.delenv("THALWEG_CACHE", raising=False)
    patch.setattr(compilation.platformdirs, "user_cache_path", lambda name: Path("~/.cache") / name)


@pytest.mark.parametrize(
    "prepared",
    [
        file_in_the_way,
        below_a_file,
        kernels_is_a_file,
        nowhere_to_write,
        read_only,
        full_disk,
        no_such_user,
        no_home,
        home_left_as_written,
    ],
)
def test_without_a_folder_to_write_to_all_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str], prepared
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = prepared(tmp_path, monkeypatch)
    if chosen is not None:
        monkeypatch.setenv("THALWEG_CACHE", chosen)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    for _ in range(2):
        forget()
        assert called(42) == 42
    assert len(compiled) == 2
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_folder_is_the_users_unless_another_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv("THALWEG_CACHE", raising=False)
    folder = compilation.cache_folder()
    assert folder is not None
    assert folder.name == "kernels"
    assert tmp_path in folder.parents
    monkeypatch.setenv("THALWEG_CACHE", "~/own")
    assert compilation.cache_folder() == tmp_path / "own/kernels"


TOGETHER = f"""{ALONE}
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
print(*map(called, range(50)))
"""


def test_processes_that_compile_at_once_do_not_disturb_each_other(
    cache: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", TOGETHER],
            env={**os.environ, "THALWEG_CACHE": str(cache.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        assert not cache.exists()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            said, errors = process.communicate(timeout=100)
            assert (process.returncode, errors) == (0, "")
            assert [*map(int, said.split())] == [*range(50)]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    files = [*cache.iterdir()]
    assert {file.suffix for file in files} == {".o"}
    alone = cache.parent / "alone/kernels"
    monkeypatch.setenv("THALWEG_CACHE", str(alone.parent))
    assert [*map(called, range(50))] == [*range(50)]
    assert {file.name: file.read_bytes() for file in files} == {
        file.name: file.read_bytes() for file in alone.iterdir()
    }


KILLED = {
    "while writing": """
fdopen = os.fdopen
class Killed:
    def __init__(self, number):
        self.file = fdopen(number, "wb")
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
compilation.os.fdopen = lambda number, mode: Killed(number)
""",
    "before the file has its name": """
compilation.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
""",
}


@pytest.mark.parametrize("how", KILLED.values(), ids=KILLED)
def test_a_process_that_is_killed_leaves_nothing_that_is_trusted(
    cache: Path, compiled: list[str], how: str
) -> None:
    done = python(f"{ALONE}\n{how}\ncalled(42)", THALWEG_CACHE=str(cache.parent))
    assert done.returncode == -signal.SIGKILL
    (part,) = cache.iterdir()
    assert part.suffix == ".part"
    left = part.read_bytes()
    assert left
    assert called(42) == 42
    assert compiled == [source(42)]
    assert part.read_bytes() == left
    forget()
    assert called(42) == 42
    assert len(compiled) == 1


def test_an_interrupted_process_leaves_nothing_at_all(
    cache: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compilation.Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            called(42)
    assert [*cache.iterdir()] == []
    assert called(42) == 42


THREADS = """
import gc, threading
import torch
from thalweg.optim import CLASSES
alike, ends = threading.Barrier(6), [None] * 6

def train(i):
    mine = []
    for made in [*CLASSES.values()][:6]:
        p = torch.linspace(-1, 1, 37).requires_grad_()
        p.grad = torch.cos(p.detach())
        alike.wait(60)
        optimizer = made([p], backend="fused")
        for _ in range(5):
            optimizer.step()
        gc.collect()
        mine.append(p.detach().clone())
    ends[i] = mine

threads = [threading.Thread(target=train, args=(i,)) for i in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert all(torch.equal(x, y) for end in ends for x, y in zip(end, ends[0], strict=True))
print("right")
"""


def test_threads_that_compile_the_same_at_once_all_have_code_that_stays(cache: Path) -> None:
    """The code of whoever comes second must not be freed while it is in use."""
    done = python(THREADS, THALWEG_CACHE=str(cache.parent))
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


def test_code_stays_as_long_as_anything_may_call_it(cache: Path, compiled: list[str]) -> None:
    p = torch.ones(3).requires_grad_()
    p.grad = torch.ones(3)
    fused.kernel.cache_clear()
    optimizer = tw.SGD([p], lr=0.25, backend="fused")
    optimizer.step()
    assert compiled
    fused.kernel.cache_clear()
    addresses = [compilation.address(source(number)) for number in range(50)]
    gc.collect()
    optimizer.step()
    assert torch.equal(p.detach(), torch.full((3,), 0.5))
    kind = ctypes.CFUNCTYPE(ctypes.c_int64)
    assert [kind(address)() for address in addresses] == [*range(50)]


def test_what_is_asked_for_can_be_observed(cache: Path, compiled: list[str]) -> None:
    called(1)
    with compilation.observed() as found:
        called(1)
        called(2)
        called(2)
    called(3)
    assert [*found.values()] == [True, False]
    assert len([*cache.iterdir()]) == 3
    assert set(found) < set(cache.iterdir())
    next(iter(found)).unlink()
    with compilation.observed() as found:
        called(1)
    assert [*found.values()] == [False]
    assert len(compiled) == 4

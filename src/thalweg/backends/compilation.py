"""Compile kernels for this processor, once per machine: object code is kept on disk."""

# llvmlite is not typed.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite
import platformdirs
from llvmlite import binding

__all__ = [
    "address",
    "assembly",
    "cache_folder",
    "has_float16",
    "is_x86",
    "observed",
    "vector_bytes",
]

_PREFIX = len(sha256().digest())
_engines: dict[str, Any] = {}
"""What has been loaded, by key, and for good: whoever has an address in it may still call it."""
_observers: list[dict[Path, bool]] = []


def address(source: str, name: str = "kernel") -> int:
    """The address of a function, compiled from LLVM's intermediate representation.

    The code is taken from `cache_folder()` if it is there, undamaged, and else compiled and put
    there. A folder that cannot be read or written costs only the time to compile.
    """
    key = _key(source)
    engine = _engines.get(key)
    if engine is None or _observers:
        made = _engine(_code(source, key))
        # Another thread may have been faster; what is not kept must never have been called.
        engine = _engines.setdefault(key, made)
    return engine.get_function_address(name)


@contextmanager
def observed() -> Generator[dict[Path, bool]]:
    """The files of all code that is asked for inside, and whether each was there already.

    What has been loaded before is looked for on disk all the same.
    """
    found: dict[Path, bool] = {}
    _observers.append(found)
    try:
        yield found
    finally:
        _observers.remove(found)


def _engine(code: bytes) -> Any:
    # The engine holds the memory in which the code lies, and frees its machine with itself.
    engine = binding.create_mcjit_compiler(
        binding.parse_assembly(""), _machine_for(_cpu(), features())
    )
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def _key(source: str) -> str:
    """What the code depends on: the source, what compiles it, and for which processor."""
    made_by = (
        f"{llvmlite.__version__} {binding.llvm_version_info} {_triple()} {_cpu()} {features()}"
    )
    return sha256("\n".join([made_by, source]).encode()).hexdigest()


def _code(source: str, key: str) -> bytes:
    """The object code: a file is the sha256 of its key and the code, then the code itself."""
    folder = cache_folder()
    path = None if folder is None else folder / f"{key}.o"
    content = b""
    if path is not None:
        with suppress(OSError):
            content = path.read_bytes()
    code = content[_PREFIX:]
    kept = bool(code) and _digest(key, code) == content[:_PREFIX]
    if not kept:
        code = _machine().emit_object(_optimised(source, _machine()))
    if path is not None:
        if not kept:
            _keep(path, _digest(key, code) + code)
        for found in _observers:
            found.setdefault(path, kept)
    return code


def _digest(key: str, code: bytes) -> bytes:
    return sha256(key.encode() + code).digest()


def _keep(path: Path, content: bytes) -> None:
    """Write a file in one step, so that no other process ever sees a part of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(suffix=".part", dir=path.parent)
    except OSError:
        return
    with suppress(OSError):
        try:
            with os.fdopen(number, "wb") as file:
                file.write(content)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)


def cache_folder() -> Path | None:
    """Where compiled kernels are kept: THALWEG_CACHE, else the user's folder for caches.

    None if there is neither: a user without a home.
    """
    chosen = os.environ.get("THALWEG_CACHE")
    try:
        folder = Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("thalweg")
    except RuntimeError:
        return None
    # An older platformdirs leaves a home that it does not find as it is written: ~.
    return folder / "kernels" if chosen or folder.is_absolute() else None


def assembly(source: str, cpu: str, features: str = "") -> str:
    """What is compiled for another processor of this machine's kind, in its assembly language.

    Args:
        source: LLVM's intermediate representation.
        cpu: the processor by LLVM's name, such as `x86-64-v3`, which has AVX2.
        features: what it has beside that, such as `+avx512f`.
    """
    machine = _machine_for(cpu, features)
    return machine.emit_assembly(_optimised(source, machine))


def vector_bytes() -> int:
    """The size of this processor's vectors."""
    has = features().split(",")
    return 64 if "+avx512f" in has else 32 if "+avx" in has else 16


def has_float16() -> bool:
    """Whether this processor converts float16 itself, where it may lack it."""
    return "+f16c" in features().split(",") or not is_x86()


@cache
def is_x86() -> bool:
    """Whether the processor is of the x86 kind."""
    return _triple().startswith(("x86", "i386", "i686"))


@cache
def features() -> str:
    """What this processor has, by LLVM's names: `+avx2,-avx512f,...`."""
    return binding.get_host_cpu_features().flatten()


@cache
def _cpu() -> str:
    return binding.get_host_cpu_name()


def _triple() -> str:
    return binding.get_process_triple()


@cache
def _machine() -> Any:
    return _machine_for(_cpu(), features())


def _machine_for(cpu: str, features: str) -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_triple(_triple())
    return target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True)


def _optimised(source: str, machine: Any) -> Any:
    module = binding.parse_assembly(source)
    module.triple = machine.triple
    options = binding.create_pipeline_tuning_options(speed_level=2)
    # The source is in vectors already, and what is left over is short.
    options.loop_vectorization = options.slp_vectorization = False
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module

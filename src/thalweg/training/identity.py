"""What a run is a run of: told apart by content, so that a resume goes on with the same."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import inspect
import platform
import sysconfig
from collections.abc import Iterable
from functools import partial
from hashlib import blake2b, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from thalweg.tasks.task import Data, Task
from thalweg.training.differences import Identity

__all__ = ["environment", "identity"]

_FUNCTIONS = ("data", "model", "loss", "metric", "augment", "views", "layers")
_INSTALLED = tuple(
    Path(place).resolve()
    for place in (torch.__path__[0], *(sysconfig.get_path(p) for p in ("stdlib", "platstdlib")))
)


def identity(task: Task, model: nn.Module, data: Data) -> Identity:
    """What decides a run besides its settings, as plain JSON data.

    Args:
        task: what is trained.
        model: the task's.
        data: the task's.

    Returns:
        `task`: its name. `code`: the start of the sha256 of each source file that the task's
        functions and the model's layers are defined in; files of installed packages are not
        among them, nor what was typed into an interpreter. `functions`: what the task's are
        called, with what is bound to them. `model`: shape and type of every parameter and buffer,
        and each layer's plain settings. `data`: shape, type and the start of the BLAKE2b of every
        tensor.
    """
    functions = [getattr(task, name, None) for name in _FUNCTIONS]
    layers = {type(layer) for layer in model.modules()}
    return {
        "task": {"name": task.name},
        "code": _code([*functions, *layers]),
        "functions": {
            name: _named(f) for name, f in zip(_FUNCTIONS, functions, strict=True) if f is not None
        },
        "model": {
            **{
                name: _form(tensor)
                for name, tensor in (*model.named_parameters(), *model.named_buffers())
            },
            **{f"layer {name}".rstrip(): _named(layer) for name, layer in model.named_modules()},
        },
        "data": {
            f"{part} {what}": f"{_form(tensor)} {_digest(tensor)}"
            for part in ("train", "validation", "test")
            for what, tensor in zip(("inputs", "targets"), getattr(data, part) or (), strict=False)
        },
    }


def environment() -> dict[str, str]:
    """What two runs must have in common, besides their identity, to be equal in every bit."""
    return {
        "thalweg": version("thalweg"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def _form(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def _digest(tensor: Tensor) -> str:
    # NumPy has no bfloat16, and scalars cannot be viewed as bytes.
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return blake2b(content.numpy(), digest_size=8).hexdigest()  # pyright: ignore


def _named(thing: Any) -> str:
    """What a thing is called, with the arguments that are bound to it."""
    if isinstance(thing, partial):
        bound = cast("partial[Any]", thing)
        given = [*map(repr, bound.args), *(f"{n}={v!r}" for n, v in bound.keywords.items())]
        return f"{_named(bound.func)}({', '.join(given)})"
    if inspect.isroutine(thing) or inspect.isclass(thing):
        return thing.__qualname__
    given = [f"{n}={v!r}" for n, v in vars(thing).items() if n != "training" and _is_plain(v)]
    return f"{type(thing).__qualname__}({', '.join(given)})"


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, cast("tuple[Any, ...]", value)))
    return isinstance(value, bool | int | float | str)


def _code(objects: Iterable[Any]) -> dict[str, str]:
    """The start of the sha256 of the objects' files, by the files' names."""
    files = {file for thing in objects if thing is not None and (file := _file(thing))}
    found: dict[str, list[str]] = {}
    # The folder is left out: it may have been moved. So files of one name share an entry.
    for file in files:
        found.setdefault(file.name, []).append(sha256(file.read_bytes()).hexdigest()[:16])
    return {name: " ".join(sorted(found[name])) for name in sorted(found)}


def _file(thing: Any) -> Path | None:
    """The file of the user's, or of Thalweg's as it is being developed, that defines a thing."""
    while isinstance(thing, partial):
        thing = cast("partial[Any]", thing).func
    defined: Any = inspect.unwrap(thing)
    if not (inspect.isroutine(defined) or inspect.isclass(defined)):
        defined = cast(Any, type(defined))
    try:
        file = Path(inspect.getsourcefile(defined) or "").resolve()
    # Built into Python, or made where there is no file.
    except (TypeError, OSError):
        return None
    installed = {"site-packages", "dist-packages"} & {*file.parts}
    if installed or not file.is_file() or any(file.is_relative_to(p) for p in _INSTALLED):
        return None
    return file

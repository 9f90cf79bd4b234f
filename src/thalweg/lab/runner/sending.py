"""What is sent whole to other processes: definitions that those could not import."""

import copyreg
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import fields
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from thalweg.rules.declaration import Link

__all__ = ["whole"]

_INSTALLED = {Path(p).resolve() for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)}


@contextmanager
def whole() -> Generator[None]:
    """Have cloudpickle take the definitions of such modules with it, and not their names alone.

    They were loaded from their file, as pytest and `thalweg.tasks.load` do.
    """
    import cloudpickle  # pyright: ignore[reportMissingTypeStubs]

    modules = {n: m for n, m in list(sys.modules.items()) if _is_out_of_reach(n, m)}

    def reduced(link: Link) -> Any:
        if link.function.__module__ not in modules:
            return link.__reduce__()
        return Link, tuple(getattr(link, f.name) for f in fields(link))

    for module in modules.values():
        cloudpickle.register_pickle_by_value(module)  # pyright: ignore
    copyreg.pickle(Link, reduced)  # pyright: ignore
    try:
        yield
    finally:
        del copyreg.dispatch_table[Link]
        for module in modules.values():
            cloudpickle.unregister_pickle_by_value(module)  # pyright: ignore


def _is_out_of_reach(name: str, module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None or name == "__main__" or module.__name__ != name:
        return False
    # What is installed can be imported; to ask for it would take a second.
    if not _INSTALLED.isdisjoint(Path(file).resolve().parents):
        return False
    return PathFinder.find_spec(name.partition(".")[0]) is None

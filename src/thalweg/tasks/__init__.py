"""Tasks: what there is to train, built in or the user's own, both written in the same way."""

import re
import sys
import traceback
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from thalweg.errors import UsageError, unknown
from thalweg.tasks.task import Data, Task

__all__ = ["TASKS", "Data", "Task", "check", "load"]

TASKS: dict[str, str] = {
    "digits": "8x8 handwritten digits, 1,079 to train on; perceptron 64-64-32-10",
    "fashion-mnist": "28x28 images of clothes, 55,000 to train on; perceptron 784-100-100-100-10",
    "mnist": "28x28 handwritten digits, 55,000 to train on; 2 convolutions, 20,490 parameters",
    "cifar10": "32x32 photographs, 45,000 to train on; residual network, 1,646,000 parameters",
    "cifar10-wrn22": "32x32 photographs, 45,000 to train on; wide residual network, 22 layers",
}
"""The built-in tasks and what they are; each is in the module of its name, with _ for -."""

_OWN = re.compile(r"(.+\.py)(?::(.*))?", re.DOTALL)


def check(spec: str) -> None:
    """See that there is such a task, without loading it.

    Raises:
        UsageError: no task has that name, or there is no such file.
    """
    own = _OWN.fullmatch(spec)
    if own is None and spec not in TASKS:
        raise UsageError(
            f"{unknown('task', spec, TASKS)} A task of your own is written path/to/file.py:task."
        )
    if own and not (path := Path(own[1]).expanduser()).is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UsageError(f"the task file {path} {what}; it was looked for at {path.resolve()}.")


def load(spec: str) -> Task:
    """The task that is called so.

    Args:
        spec: a name in `TASKS`, or `path/to/file.py:attribute` for the user's own. The attribute
            is `task` where only the path is given. The file is run anew each time; what it
            imports at its top may be in its own folder. Functions of such a task cannot be
            pickled for a process that has not loaded it: give the process the spec instead.

    Raises:
        UsageError: there is no such task, or the file cannot be imported.
    """
    check(spec)
    own = _OWN.fullmatch(spec)
    if own:
        path = Path(own[1]).expanduser()
        return _attribute(_imported(path), own[2] or "task", path)
    return import_module(f"thalweg.tasks.{spec.replace('-', '_')}").task


def _imported(path: Path) -> ModuleType:
    file = path.resolve()
    # A task.py or a random.py must not stand in the way of another module of that name.
    name = f"own_task_{file.stem}"
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # As for a script, so that a task may import what is beside it.
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise UsageError(
            f"the task file {path} cannot be imported: {_place(error, file)}: "
            f"{type(error).__name__}: {reason}"
        ) from error
    return module


def _place(error: BaseException, file: Path) -> str:
    """The last line of the user's that was reached: `file.py, line 3`."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f for f in frames if Path(f.filename).parent == file.parent]
    return f"{Path(lines[-1].filename).name}, line {lines[-1].lineno}" if lines else file.name


def _attribute(module: ModuleType, name: str, path: Path) -> Task:
    found = vars(module).get(name)
    if isinstance(found, Task):
        return found
    if name in vars(module):
        raise UsageError(
            f"{name} in {path} must be a thalweg.tasks.Task, but is of the type "
            f"{type(found).__name__}."
        )
    tasks = [key for key, value in vars(module).items() if isinstance(value, Task)]
    if not tasks:
        raise UsageError(f"{path} has no {name!r}, nor any Task. Add one: {name} = Task(...)")
    raise unknown(f"task in {path}:", name, tasks)

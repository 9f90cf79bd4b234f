"""`timm.optim` by itself: the whole of timm imports torchvision, which no optimizer needs."""

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest


def module() -> ModuleType:
    """The module; the test, or all tests of a file, are skipped where timm is not installed."""
    found = importlib.util.find_spec("timm")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("timm is not installed", allow_module_level=True)
    with pytest.MonkeyPatch.context() as patch:
        package, models = ModuleType("timm"), ModuleType("timm.models")
        package.__path__ = [*found.submodule_search_locations]
        # Of layers in order, which no test here asks for.
        models.group_parameters = None  # pyright: ignore
        patch.setitem(sys.modules, "timm", package)
        patch.setitem(sys.modules, "timm.models", models)
        return importlib.import_module("timm.optim")

"""Thalweg: gradient-descent optimizers, each written once, and a lab that says which to use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thalweg.errors import UsageError, unknown

if TYPE_CHECKING:
    # The drop-in classes have torch's signatures, so this is what they are to a type checker.
    from torch.optim import (
        SGD,
        Adadelta,
        Adagrad,
        Adam,
        Adamax,
        AdamW,
        NAdam,
        RMSprop,
    )

    from thalweg import rules
    from thalweg.optim import NAG, QHM, AggMo, AMSGrad, Momentum, Optimizer, QHAdam
    from thalweg.rules import (
        adadelta,
        adagrad,
        adam,
        adamax,
        adamw,
        aggmo,
        amsgrad,
        chain,
        decay,
        flag,
        hyper,
        l2,
        momentum,
        nadam,
        nag,
        noise,
        qhadam,
        qhm,
        rmsprop,
        rule,
        sgd,
        stage,
        state,
    )
    from thalweg.tasks import Data, Task
    from thalweg.training import Epoch, train

__version__ = "0.1.0"

_FROM = {
    "thalweg.training": ("Epoch", "train"),
    "thalweg.tasks": ("Data", "Task"),
    "thalweg.optim": (
        "AMSGrad",
        "Adadelta",
        "Adagrad",
        "Adam",
        "AdamW",
        "Adamax",
        "AggMo",
        "Momentum",
        "NAG",
        "NAdam",
        "Optimizer",
        "QHAdam",
        "QHM",
        "RMSprop",
        "SGD",
    ),
    "thalweg.rules": (
        "adadelta",
        "adagrad",
        "adam",
        "adamax",
        "adamw",
        "aggmo",
        "amsgrad",
        "chain",
        "decay",
        "flag",
        "hyper",
        "l2",
        "momentum",
        "nadam",
        "nag",
        "noise",
        "qhadam",
        "qhm",
        "rmsprop",
        "rule",
        "sgd",
        "stage",
        "state",
    ),
}
_HOME = {name: module for module, names in _FROM.items() for name in names}

__all__ = ["UsageError", "rules", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    # Nothing heavy is imported before it is used; torch alone takes more than a second.
    if name == "rules":
        return import_module("thalweg.rules")
    if name not in _HOME:
        raise AttributeError(str(unknown("name in thalweg", name, __all__)))
    return getattr(import_module(_HOME[name]), name)

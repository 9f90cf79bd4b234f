"""Thalweg: gradient-descent optimizers, each written once, and a lab that says which to use.

Every rule and stage is here by name (`thalweg.adam`, `thalweg.l2`), and every rule's torch class by
its title (`thalweg.Adam`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from thalweg import rules, schedules
from thalweg.errors import UsageError, unknown
from thalweg.rules import Rule, chain, flag, hyper, rule, stage, state
from thalweg.schedules import Schedule, join, one_cycle, one_cycle_momentum

if TYPE_CHECKING:
    # The drop-in classes have torch's signatures, so this is what they are to a type checker.
    from torch.optim import SGD as SGD
    from torch.optim import Adadelta as Adadelta
    from torch.optim import Adagrad as Adagrad
    from torch.optim import Adam as Adam
    from torch.optim import Adamax as Adamax
    from torch.optim import AdamW as AdamW
    from torch.optim import NAdam as NAdam
    from torch.optim import RAdam as RAdam
    from torch.optim import RMSprop as RMSprop
    from torch.optim import Rprop as Rprop

    from thalweg.groups import decay_groups as decay_groups
    from thalweg.lab.running import compare as compare
    from thalweg.lab.study import Study as Study
    from thalweg.optim import Optimizer as Optimizer
    from thalweg.tasks import Data as Data
    from thalweg.tasks import Task as Task
    from thalweg.training import Phase as Phase
    from thalweg.training import Record as Record
    from thalweg.training import train as train
    from thalweg.training.range_test import lr_find as lr_find
    from thalweg.training.range_test import lr_range_test as lr_range_test

__version__ = "0.1.0"

# Imported when they are first used: torch alone takes more than a second.
_LATER = {
    "Data": "thalweg.tasks",
    "Phase": "thalweg.training",
    "Record": "thalweg.training",
    "Optimizer": "thalweg.optim",
    "Study": "thalweg.lab.study",
    "Task": "thalweg.tasks",
    "compare": "thalweg.lab.running",
    "decay_groups": "thalweg.groups",
    "lr_find": "thalweg.training.range_test",
    "lr_range_test": "thalweg.training.range_test",
    "train": "thalweg.training",
    **{r.title: "thalweg.optim" for r in rules.OPTIMIZERS.values()},
}

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "Rule",
    "Schedule",
    "UsageError",
    "chain",
    "flag",
    "hyper",
    "join",
    "one_cycle",
    "one_cycle_momentum",
    "rule",
    "rules",
    "schedules",
    "stage",
    "state",
    *_LATER,
    *rules.OPTIMIZERS,
    *rules.STAGES,
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    if name in rules.OPTIMIZERS or name in rules.STAGES:
        return getattr(rules, name)
    raise AttributeError(str(unknown("name in thalweg", name, __all__)))

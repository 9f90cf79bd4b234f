"""A run as TensorBoard shows it."""

# torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false, reportPrivateImportUsage=false

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from thalweg.errors import UsageError
from thalweg.training.folder import read_run
from thalweg.training.records import Progress, Record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Board"]


class Board:
    """Writes a run's losses, metric and settings by step to event files in its folder.

    A resumed run gets a new file, which says that what the earlier ones have of later steps does
    not hold any more.

    Args:
        folder: the run's, which need not be there before the first call.

    Raises:
        UsageError: the package `tensorboard` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise UsageError(
                "event files need the package tensorboard, which is not installed: "
                'pip install "thalweg[tensorboard]"'
            )
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    def watch(self, progress: Progress) -> None:
        """Write the loss of the last batch and the settings."""
        self._write({"loss/batch": progress.loss}, progress)

    def __call__(self, record: Record) -> None:
        """Write what an evaluation came to, and the settings."""
        values = {
            "loss/training": record.train_loss,
            "loss/validation": record.validation_loss,
            "metric/validation": record.metric,
            "metric/test": record.test,
            "metric/test with augmentation": record.test_tta,
        }
        self._write({k: v for k, v in values.items() if v is not None}, record)
        if self._writer:
            self._writer.flush()

    def _write(self, values: Mapping[str, float], at: Progress | Record) -> None:
        self._writer = self._writer or self._opened()
        settings = {f"settings/{name}": value for name, value in at.settings.items()}
        for name, value in {**values, **settings}.items():
            self._writer.add_scalar(name, value, at.steps)

    def _opened(self) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        history = read_run(self._folder)["history"]
        resumed = len(history) > 1
        return SummaryWriter(self._folder, purge_step=history[-1]["step"] + 1 if resumed else None)

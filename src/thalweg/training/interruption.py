"""Ctrl-C and SIGTERM, taken where nothing is lost by them."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "Signals", "signals"]


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, by Ctrl-C or SIGTERM, and has done so.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Signals:
    """What has been received since `signals` was entered.

    Attributes:
        received: the number of the signal, or None.
        at_once: whether a signal is raised where it comes, instead of waiting to be looked at. A
            second one always is.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.at_once = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = number
        if self.at_once or again:
            raise Interrupted(number)

    @contextmanager
    def raised(self, save: Callable[[], None]) -> Generator[None, None, None]:
        """Within this, a signal is raised where it comes, once what was there before is saved."""
        self.at_once = True
        try:
            if self.received is not None:
                raise Interrupted(self.received)
            yield
        except Interrupted:
            save()
            raise
        finally:
            self.at_once = False


@contextmanager
def signals(wanted: bool = True) -> Generator[Signals, None, None]:
    """Catch SIGINT and SIGTERM, where they can be caught: in the main thread."""
    caught = Signals()
    before: dict[int, Any] = {}
    if wanted and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, caught)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

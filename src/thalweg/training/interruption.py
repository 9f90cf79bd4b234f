"""Ctrl-C and SIGTERM, taken where nothing is lost by them."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "Signals", "signals"]


_CAUGHT = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


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

    def __init__(self, *, at_once: bool = False) -> None:
        self.received: int | None = None
        self.at_once = at_once
        self._before: dict[int, Any] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = number
        if self.at_once or again:
            raise Interrupted(number)

    def install(self) -> None:
        """Catch signals from now on, where they can be caught: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self) for number in _CAUGHT}

    def remove(self) -> None:
        """Leave signals to whatever caught them before, but for those that others catch by now."""
        for number, handler in self._before.items():
            if signal.getsignal(number) is self:
                signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def removed(self) -> Generator[None, None, None]:
        """Within this, signals are left to whatever caught them before."""
        there = bool(self._before)
        self.remove()
        try:
            yield
        finally:
            if there:
                self.install()

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
def signals(wanted: bool = True, *, at_once: bool = False) -> Generator[Signals, None, None]:
    """Catch Ctrl-C, SIGTERM and the end of the terminal.

    Args:
        wanted: whether to.
        at_once: see `Signals`.
    """
    caught = Signals(at_once=at_once)
    if wanted:
        caught.install()
    try:
        yield caught
    finally:
        caught.remove()

"""Stopping on a signal: at once, or where nothing is lost."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

# Ctrl-C; kill and schedulers; what SLURM (--signal=USR1@60) and submitit send before a time limit or a preemption.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE = 8.0  # seconds
_COPIES = 1.0  # seconds in which another signal is a copy: make and timeout send one to a process and to its group
_noted = -_COPIES  # when the last signal that was no copy came, in seconds of the monotonic clock


class StopRequest:
    """A signal to stop, only noted between :meth:`start` and :meth:`end`: the process ends where it calls :meth:`heed`.

    A second signal, a second later or more, or :data:`_PATIENCE`, ends it at once. Ignored signals stay ignored.

    Attributes:
        number: the signal's number; 0 while there was none.
    """

    def __init__(self) -> None:
        self.number = 0
        self.patient = False  # whether the process may take all the time that it needs
        self.before: dict[signal.Signals, Any] = {}

    def start(self) -> None:
        """Begin to note signals, if that has not begun; only the main thread can."""
        if self.before or threading.current_thread() is not threading.main_thread():
            return
        self.before = _handle_signals(self._note)

    def _note(self, number: int, _: Any) -> None:
        if _is_copy():
            return
        if self.number:
            self.end()
            self.heed()
        self.number = number
        self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._give_up)
        self._set_timer()
        logger.warning(
            "%s: stopping after this step; another one, after a second, stops at once", signal.Signals(number).name
        )

    def _set_timer(self) -> None:
        if signal.SIGALRM in self.before:  # while it is handled: unhandled, it would kill the process
            signal.setitimer(signal.ITIMER_REAL, 0 if self.patient else _PATIENCE)

    def _give_up(self, *_: Any) -> None:
        logger.warning("the step takes too long: stopped within it")
        self.heed()

    def heed(self) -> None:
        """Raise SystemExit if there was a signal."""
        stop_for(self.number)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the block take all the time that it needs, before or after a signal; a second one still ends it."""
        self.patient = True
        self._set_timer()
        try:
            yield
        finally:
            self.patient = False
            self._set_timer()

    def end(self) -> None:
        """Let signals do what they did before."""
        if signal.SIGALRM in self.before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in self.before.items():
            signal.signal(each, handler)
        self.before = {}


def stop_for(number: int) -> None:
    """Raise SystemExit with the status of a process that a signal stopped; 0 is none."""
    if number:
        raise SystemExit(128 + number)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Exit with status 128 + number on a signal, so that what is half-written is removed; a second one kills."""
    global _noted
    _noted, stopped = -_COPIES, False

    def stop(number: int, _: Any) -> None:
        nonlocal stopped
        if _is_copy():
            return
        if stopped:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stopped = True
        logger.warning("stopped by %s", signal.Signals(number).name)
        stop_for(number)

    before = _handle_signals(stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def saying_when_stopped(text: Callable[[], str]) -> Iterator[None]:
    """Log ``text()``, what is done and how to go on, if a signal ends the block."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        logger.info(text())
        raise


def _handle_signals(handler: Callable[[int, Any], None]) -> dict[signal.Signals, Any]:
    """Let ``handler`` take those of :data:`STOP_SIGNALS` that are not ignored; return the handlers before."""
    return {
        each: signal.signal(each, handler)
        for each in STOP_SIGNALS
        if signal.getsignal(each) not in (signal.SIG_IGN, None)
    }


def _is_copy() -> bool:
    """Return whether the signal that came now is a copy of the last one; else note its time."""
    global _noted
    now = time.monotonic()
    if now - _noted < _COPIES:
        return True
    _noted = now
    return False


def end_with_reader() -> None:
    """Let the process end, as other programs do, when what reads its output has ended; for what only prints."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)

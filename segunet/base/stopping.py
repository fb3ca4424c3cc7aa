"""Stopping on a signal where nothing is lost."""

import logging
import signal
import threading
from typing import Any

logger = logging.getLogger(__name__)

# Ctrl-C; kill and schedulers; what SLURM sends before a time limit or a preemption (--signal=USR1@60).
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_PATIENCE = 8.0  # seconds


class StopRequest:
    """A signal to stop, only noted between :meth:`start` and :meth:`end`: the process ends where it calls :meth:`heed`.

    A second signal, or :data:`_PATIENCE`, ends it at once. Signals that the process ignores stay ignored.

    Attributes:
        number: the signal's number; 0 while there was none.
    """

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[signal.Signals, Any] = {}

    def start(self) -> None:
        """Begin to note signals, if that has not begun; only the main thread can."""
        if self.before or threading.current_thread() is not threading.main_thread():
            return
        for each in STOP_SIGNALS:
            if signal.getsignal(each) not in (signal.SIG_IGN, None):
                self.before[each] = signal.signal(each, self._note)

    def _note(self, number: int, _: Any) -> None:
        self.number = number
        self._restore()
        self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._give_up)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
        logger.warning("%s: stopping after this step; another one stops at once", signal.Signals(number).name)

    def _give_up(self, *_: Any) -> None:
        logger.warning("the step takes too long: stopped within it")
        self.heed()

    def heed(self) -> None:
        """Raise SystemExit if there was a signal."""
        if self.number:
            raise SystemExit(128 + self.number)

    def stop_clock(self) -> None:
        """Let the process take all the time that is needed from here on; a second signal still ends the process."""
        if signal.SIGALRM in self.before:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def end(self) -> None:
        """Let signals do what they did before."""
        self.stop_clock()
        self._restore()
        self.before = {}

    def _restore(self) -> None:
        for each, handler in list(self.before.items()):
            signal.signal(each, handler)

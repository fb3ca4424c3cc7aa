"""Loader processes: what each does at its start."""

import signal
from typing import Any

import cv2

from segunet.base.stopping import STOP_SIGNALS

_GRACE = 10  # seconds


def prepare_worker(_worker: int) -> None:
    """Limit a loader process to one core, and let it outlast a signal to the group, as the training ends it.

    After SIGTERM, which Python also sends to what is left at its own end, it lives for :data:`_GRACE` seconds.
    """
    cv2.setNumThreads(0)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _end_soon)


def _end_soon(*_: Any) -> None:
    signal.alarm(_GRACE)

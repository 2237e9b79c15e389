# SPDX-License-Identifier: Apache-2.0
"""SIGTERM as a wish: a training saves its state and ends, as SLURM and Docker expect."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """asked: whether SIGTERM has come."""

    asked: bool = False


@contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Note SIGTERM inside the `with` block instead of ending by it; a handler that the block set is
    left as it is.

    Outside the main thread, where Python hears no signals, nothing is noted.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        request.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        if signal.getsignal(signal.SIGTERM) is note:
            signal.signal(signal.SIGTERM, before)

# SPDX-License-Identifier: Apache-2.0
"""SIGTERM as a wish: a training saves its state and ends, as SLURM and Docker expect."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """`asked` is True from the first SIGTERM inside the `with` block on.

    Outside the main thread, where Python hears no signals, it stays False.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

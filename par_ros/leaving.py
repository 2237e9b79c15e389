# SPDX-License-Identifier: Apache-2.0
"""Quiet exit during start-up. Standard library only: it is imported before everything else."""

import os
import signal
from types import FrameType


def leave_at_once_when_asked() -> None:
    """From now on SIGINT and SIGTERM end this process with code 0 and without a message.

    For the imports: interrupted, they print pages. `run_node` and `run_beside_spinning` end it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)

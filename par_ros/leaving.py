# SPDX-License-Identifier: Apache-2.0
"""What SIGINT and SIGTERM do. Standard library only: it is imported before everything else."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType


def leave_at_once_when_asked() -> None:
    """From now on SIGINT and SIGTERM end this process with code 0 and without a message.

    For the imports: interrupted, they print pages. `run_node` and `run_beside_spinning` end it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)


def call_once_when_asked(call: Callable[[], object]) -> None:
    """From now on the first SIGINT or SIGTERM calls `call` in a thread of its own; later ones do
    nothing.

    Without delay: Python's own handlers run when the main thread returns to Python, and one that
    waits in the middleware may not. The handlers stay in place until the process ends.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def wait() -> None:
        reader.recv(1)
        call()

    threading.Thread(target=wait, name="asked_to_end", daemon=True).start()
    # A byte for each signal, written at once by whichever thread got it.
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, take_no_notice)


def take_no_notice(number: int, frame: FrameType | None) -> None:
    """A handler that does nothing. Unlike SIG_IGN it is not inherited by a child process."""

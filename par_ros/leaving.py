# SPDX-License-Identifier: Apache-2.0
"""What SIGINT, SIGTERM and SIGHUP do. Standard library only: it is imported before everything
else."""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask this process to end: SIGINT, SIGTERM, and SIGHUP, which comes when its
    terminal or ssh connection is lost. Without SIGHUP where it is ignored, as below `nohup`."""
    asking = (signal.SIGINT, signal.SIGTERM)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return asking
    return (*asking, signal.SIGHUP)


def leave_at_once_when_asked() -> None:
    """From now on a signal that asks it to ends this process with code 0 and without a message.

    For the imports: interrupted, they print pages. `run_node` and `run_beside_spinning` end it.
    """
    for number in ending_signals():
        signal.signal(number, _leave)


def leave(code: int) -> NoReturn:
    """End this process with `code`, now. What Python does at its end takes seconds where torch is
    loaded; a runner kills what has not ended by then, and its shared memory stays behind."""
    for stream in (sys.stdout, sys.stderr):
        # Its reader, a terminal or a pipe, may be gone.
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # What ROS 2 has logged into its file and not written yet.
    ctypes.CDLL(None).fflush(None)
    os._exit(code)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)


def call_once_when_asked(call: Callable[[], object]) -> None:
    """From now on the first signal that asks this process to end calls `call` in a thread of its
    own; later ones do nothing. The handlers stay in place until the process ends."""
    _call_once(ending_signals(), call)


def pass_on_hangup() -> None:
    """From now on SIGHUP sends this process SIGTERM, for which others have a handler."""
    if signal.SIGHUP in ending_signals():
        _call_once((signal.SIGHUP,), lambda: os.kill(os.getpid(), signal.SIGTERM))


def _call_once(numbers: tuple[signal.Signals, ...], call: Callable[[], object]) -> None:
    """Without delay: Python's own handlers run when the main thread returns to Python, and one that
    waits in the middleware may not."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def wait() -> None:
        while reader.recv(1)[0] not in numbers:
            pass
        call()
        # Whoever writes to a closed socket would print a traceback.
        while reader.recv(64):
            pass

    threading.Thread(target=wait, name="asked_to_end", daemon=True).start()
    # A byte, its number, for each signal, written at once by whichever thread got it.
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, take_no_notice)


def take_no_notice(number: int, frame: FrameType | None) -> None:
    """A handler that does nothing. Unlike SIG_IGN it is not inherited by a child process."""

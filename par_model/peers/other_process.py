# SPDX-License-Identifier: Apache-2.0
"""Questions to a program that runs under an interpreter of its own.

The program gets the number of a socket as its last argument. Over it go messages that
multiprocessing.connection prefixes with their length; nothing is pickled. First the program sends a
JSON object: it is ready. Then each question is a JSON object and, where it has bytes, a second
message with these; each answer is a JSON object. One with "error" is a refusal in one sentence. The
program ends when the socket is closed, so also when this process is killed.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import IO, Any

from par_model.interface import PolicyEnded
from par_model.json_file import parse_object, shown

# A chunk of 100 actions of 8 joints has 16 kB.
MAX_ANSWER_BYTES = 2**20
# How long a program that has closed its socket may take to end.
_END_S = 5.0
_OUTPUT_BYTES = 4096


class OtherProcess:
    """A running program. It is stopped when this object is collected or this process ends.

    Args:
        what: names the program in sentences, such as "the LeRobot process".
        command: program and arguments; the socket's number is appended.

    Raises:
        ValueError: the program cannot be started.
    """

    def __init__(self, what: str, command: Sequence[str]) -> None:
        self._what = what
        self._failure = ""
        # What it prints: a pipe that nobody reads would fill up.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed by _stop
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C is for this process, which closes the socket when it has ended its work.
                start_new_session=True,
            )
        except OSError as error:
            raise ValueError(
                f"{what} cannot be started with {command[0]}: {error.strerror}; check that path."
            ) from error
        finally:
            theirs.close()
        self._connection = Connection(ours.detach())
        self._finalizer = weakref.finalize(
            self, _stop, self._process, self._connection, self._output
        )

    def ready(self, timeout_s: float) -> dict[str, Any]:
        """The program's first message. Raises as `ask`."""
        return self._exchange((), timeout_s)

    def ask(self, question: dict[str, Any], payload: bytes, timeout_s: float) -> dict[str, Any]:
        """The answer to one question. Blocks for `timeout_s` at most.

        Raises:
            PolicyEnded: the program has ended, gave no answer in time (it is stopped then) or
                broke the protocol; every later question raises it again.
            ValueError: the program refused the question; it answers the next one.
        """
        return self._exchange((json.dumps(question).encode(), payload), timeout_s)

    def _exchange(self, messages: Sequence[bytes], timeout_s: float) -> dict[str, Any]:
        if self._failure:
            raise PolicyEnded(self._failure)
        # The timer's thread may outlive the question; it must not keep this object alive.
        process, is_late = self._process, threading.Event()

        def stop() -> None:
            is_late.set()
            _kill(process)

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            # A stopped program closes its socket: that ends sending and receiving alike.
            content = self._send_and_receive(messages)
        except (EOFError, OSError):
            content = None
        finally:
            timer.cancel()
        if is_late.is_set():
            raise self._ended(f"gave no answer in {timeout_s:g} s and was stopped")
        if content is None:
            raise self._ended()
        try:
            answer = parse_object(content, "its answer", "its program is at fault")
        except ValueError as error:
            raise self._ended(f"broke the protocol: {str(error).rstrip('.')}") from None
        if "error" in answer:
            raise ValueError(f"{self._what} refused: {answer['error']}")
        return answer

    def _send_and_receive(self, messages: Sequence[bytes]) -> bytes:
        for message in messages:
            self._connection.send_bytes(message)
        return self._connection.recv_bytes(MAX_ANSWER_BYTES)

    def _ended(self, reason: str = "") -> PolicyEnded:
        """Stop the program; the error that says why it does not answer."""
        if not reason:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            reason = _how_it_ended(self._process.poll())
        last = _last_line(self._output)
        said = f"; its last line: {shown(last, 300)}" if last else ""
        self._finalizer()
        self._failure = (
            f"{self._what} {reason}{said}. Start again; what was finished before is kept."
        )
        return PolicyEnded(self._failure)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "closed its connection or sent more than 1 MiB"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _last_line(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _OUTPUT_BYTES))
    lines = output.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """With all that it has started. Its number is its own until it is waited for."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _stop(process: "subprocess.Popen[bytes]", connection: Connection, output: IO[bytes]) -> None:
    connection.close()
    if process.poll() is None:
        _kill(process)
        process.wait()
    output.close()

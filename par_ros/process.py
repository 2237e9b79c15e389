# SPDX-License-Identifier: Apache-2.0
"""How each executable of this package starts, spins and ends.

A node ends with code 0 when it is asked to (SIGINT, SIGTERM, SIGHUP, context shut down), and with
code 1 and one line "error: ..." on stderr when it cannot do its work. What only prepares its work
(imports, loading a policy) is left where it is, see `leaves_at_once`. Nothing outlives the process
that started it: see `end_with_parent`.
"""

import ctypes
import functools
import gc
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import rclpy
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import (
    SignalHandlerOptions,
    get_current_signal_handlers_options,
    install_signal_handlers,
    uninstall_signal_handlers,
)

from par_ros.control.clock_offset import ClockOffset
from par_ros.control.timeline import Moment
from par_ros.leaving import (
    call_once_when_asked,
    ending_signals,
    leave_at_once_when_asked,
    pass_on_hangup,
    take_no_notice,
)

# Set by `python -m par_ros` and our launch files for their children: their own process id.
PARENT_VARIABLE = "PAR_PARENT_PID"
ERROR_PREFIX = "error: "

_PR_SET_PDEATHSIG = 1
# Read again where more than this lies between; a reading takes a few microseconds.
_TOGETHER_NS = 20_000
_MAX_CLOCK_READS = 5

NodeType = TypeVar("NodeType", bound=Node)


def run_node(
    make_node: Callable[[], NodeType],
    *,
    make_executor: Callable[[], Executor] = SingleThreadedExecutor,
    arguments: list[str] | None = None,
    before_end: Callable[[NodeType], object] | None = None,
) -> int:
    """Make a node, spin it until it is asked to end, and give the process's exit code.

    before_end: called with the node after a signal, or an error that is raised afterwards, has
    ended its spinning. Without it rclpy's own handlers shut the middleware down at a signal.

    ValueError and FileNotFoundError are the user's mistakes: their sentence goes to stderr and the
    code is 1. Anything else is a bug and keeps its traceback.
    """
    end_with_parent()
    for number in ending_signals():
        signal.signal(number, _interrupt_once)
    # SIGINT's and this are what rclpy's own handlers call after theirs.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    node = executor = None
    try:
        own = SignalHandlerOptions.ALL if before_end is None else SignalHandlerOptions.NO
        rclpy.init(args=arguments, signal_handler_options=own)
        if before_end is None:
            pass_on_hangup()
        else:
            signal.signal(signal.SIGTERM, _interrupt_once)
        node = make_node()
        executor = make_executor()
        executor.add_node(node)
        # What was imported stays: no collection of garbage looks through it while the arm moves.
        gc.freeze()
        if before_end is None:
            executor.spin()
        else:
            try:
                _spin_until_asked(executor)
            finally:
                is_done = _has_done(before_end, node)
            if not is_done:
                return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except rclpy_implementation.RCLError:
        # A callback that was publishing while the signal handler shut the context down.
        if rclpy.ok():
            raise
        return 0
    except (ValueError, FileNotFoundError) as error:
        return report_error(error)
    finally:
        _hear_no_more()
        if executor is not None:
            executor.shutdown()
        if node is not None:
            node.destroy_node()
        node = executor = None
        _leave_ros()
    return 0


def transition(callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A lifecycle callback that reports errors: an unexpected one is printed with its traceback,
    and the transition fails.

    rclpy does not report such an error and leaves the node in a state that the caller does not
    expect.
    """

    @functools.wraps(callback)
    def run(node: Any, state: Any) -> Any:
        try:
            return callback(node, state)
        except Exception as error:  # noqa: BLE001  rclpy would drop it
            traceback.print_exc()
            report_error(f"{callback.__name__} of {node.get_name()}: {error or repr(error)}")
            return TransitionCallbackReturn.FAILURE

    return run


def run_beside_spinning(
    make_node: Callable[[], NodeType], run: Callable[[NodeType], object]
) -> int:
    """Make a node and call `run` with it in this thread, while another thread spins the node.

    Errors and exit codes as `run_node`; SIGINT, SIGTERM and SIGHUP end `run` by KeyboardInterrupt.
    A callback that fails ends `run` too, and its error is raised here.
    """
    end_with_parent()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    asked_to_end = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked_to_end.set()
        _interrupt_once(number, frame)

    # SIGINT too: a shell that starts a process in the background leaves it ignored.
    for number in ending_signals():
        signal.signal(number, interrupt)
    failures: list[BaseException] = []
    node = spinner = None
    try:
        node = make_node()
        spinner = threading.Thread(target=_spin, args=(node, failures), name="spin")
        spinner.start()
        run(node)
    except BaseException as error:
        if failures:
            raise failures[0] from None
        if asked_to_end.is_set():
            # Whatever it has become: an interrupted import ends by any error.
            return 0
        if isinstance(error, (ValueError, FileNotFoundError)):
            return report_error(error)
        raise
    finally:
        _hear_no_more()
        rclpy.try_shutdown()
        if spinner is not None:
            spinner.join()
        if node is not None:
            node.destroy_node()
        node = spinner = None
        _leave_ros()
    return 0


def _leave_ros() -> None:
    """Leave nothing of the middleware behind in shared memory."""
    rclpy.try_shutdown()
    # The participant goes with the last handle of its node's, which may be part of a cycle.
    gc.unfreeze()
    gc.collect()


def _spin_until_asked(executor: Executor) -> None:
    """Spin until a signal asks to end; such signals are ignored afterwards."""
    asked = threading.Event()
    # The thread that calls `end` outlives the executor, which keeps what it executed last, and with
    # that the node: its participant would leave its shared memory behind.
    own = weakref.ref(executor)

    def end() -> None:
        spinning = own()
        # A task, not `wake`: that does not end the wait of `spin_once`.
        if spinning is not None and not asked.is_set():
            spinning.create_task(asked.set)

    call_once_when_asked(end)
    try:
        while not asked.is_set():
            executor.spin_once()
    finally:
        asked.set()


def _has_done(before_end: Callable[[NodeType], object], node: NodeType) -> bool:
    """Whether it could. An error of its own is printed: it must not hide the one that led here."""
    try:
        before_end(node)
    except Exception as error:  # noqa: BLE001  printed whole
        traceback.print_exc()
        report_error(f"{node.get_name()} could not do what it does at its end: {error!r}")
        return False
    return True


def _hear_no_more() -> None:
    """From now on signals do not disturb the taking down."""
    for number in ending_signals():
        signal.signal(number, take_no_notice)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Ctrl-C in a terminal reaches a node twice, from there and from launch: the second one does
    not disturb the taking down."""
    for later in ending_signals():
        signal.signal(later, take_no_notice)
    raise KeyboardInterrupt


def _spin(node: Node, failures: list[BaseException]) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    except ExternalShutdownException:
        # `run` has returned.
        return
    except BaseException as error:
        failures.append(error)
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        signal.pthread_kill(main_thread, signal.SIGINT)
        raise


@contextmanager
def leaves_at_once() -> Iterator[None]:
    """`leave_at_once_when_asked`, inside, where a node spins: for work of minutes in one of its
    callbacks, which rclpy's handlers would wait for. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    options = get_current_signal_handlers_options()
    uninstall_signal_handlers()
    before = {number: signal.getsignal(number) for number in ending_signals()}
    leave_at_once_when_asked()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        install_signal_handlers(options)


class ClockReader:
    """Reads a node's clock and the steady clock of one moment."""

    def __init__(self, node: Node) -> None:
        self._clock = node.get_clock()
        self._offset = ClockOffset()

    def now(self) -> Moment:
        """Both clocks. Simulated time is taken as it is, in its lumps."""
        moment, error_ns = read_together(self._read_ns)
        if self._clock.ros_time_is_active:
            return moment
        offset_ns = self._offset.update(moment.steady_ns, moment.offset_ns, error_ns)
        return Moment(moment.steady_ns + offset_ns, moment.steady_ns)

    def _read_ns(self) -> int:
        return int(self._clock.now().nanoseconds)


def read_together(read_clock_ns: Callable[[], int]) -> tuple[Moment, int]:
    """A clock and the steady clock, in nanoseconds, and how far they may be apart in time.

    Read again where the process was suspended between the two, which a busy machine does for tens
    of milliseconds; of several tries the one with the least between counts.
    """
    best: tuple[int, Moment] | None = None
    for _ in range(_MAX_CLOCK_READS):
        before_ns = time.monotonic_ns()
        now_ns = read_clock_ns()
        bracket_ns = time.monotonic_ns() - before_ns
        if best is None or bracket_ns < best[0]:
            best = bracket_ns, Moment(now_ns, before_ns + bracket_ns // 2)
        if bracket_ns < _TOGETHER_NS:
            break
    assert best is not None
    bracket_ns, moment = best
    return moment, (bracket_ns + 1) // 2


def report_error(error: BaseException | str) -> int:
    """Print the error in one line; gives the exit code 1."""
    sentence = " ".join(str(error).split())
    print(f"{ERROR_PREFIX}{sentence}", file=sys.stderr, flush=True)
    return 1


def end_sentence(name: str, code: int) -> str:
    """How the process of node `name` ended; a negative code is a signal's number."""
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{name} ended unexpectedly ({how})"


def end_with_parent() -> None:
    """Ask Linux to end this process when the runner that started it dies, however it dies.

    Does nothing where none is named in the environment (a shell, `ros2 run`).
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        # The runner died while this process was still importing.
        raise SystemExit(0)

# SPDX-License-Identifier: Apache-2.0
"""How each executable of this package starts, spins and ends.

A node ends with code 0 when it is asked to (SIGINT, SIGTERM, context shut down), and with code 1
and one line "error: ..." on stderr when it cannot do its work. Nothing outlives the process that
started it: see `end_with_parent`.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

# Set by `python -m par_ros` for its children: its own process id.
PARENT_VARIABLE = "PAR_PARENT_PID"
ERROR_PREFIX = "error: "

_PR_SET_PDEATHSIG = 1


def run_node(
    make_node: Callable[[], Node],
    *,
    make_executor: Callable[[], Executor] = SingleThreadedExecutor,
    arguments: list[str] | None = None,
) -> int:
    """Make a node, spin it until it is asked to end, and give the process's exit code.

    ValueError and FileNotFoundError are the user's mistakes: their sentence goes to stderr and the
    code is 1. Anything else is a bug and keeps its traceback.
    """
    end_with_parent()
    rclpy.init(args=arguments)
    node = None
    try:
        node = make_node()
        executor = make_executor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except (ValueError, FileNotFoundError) as error:
        return report_error(error)
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def report_error(error: BaseException | str) -> int:
    """Print the one sentence that says what went wrong; gives the exit code 1."""
    sentence = " ".join(str(error).split())
    print(f"{ERROR_PREFIX}{sentence}", file=sys.stderr, flush=True)
    return 1


def end_with_parent() -> None:
    """Ask Linux to end this process when the runner that started it dies, however it dies.

    Does nothing where no runner is named in the environment (ros2 launch, a shell).
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        # The runner died while this process was still importing.
        raise SystemExit(0)

# SPDX-License-Identifier: Apache-2.0
"""Runs a NodeGraph as processes: start, lifecycle, watch, take down. No launch is needed.

Each process gets its own session, so that Ctrl-C reaches only this one, which then ends them all:
SIGTERM (a process that is still importing ends without a message), and SIGKILL for those that still
run after END_GRACE_S. A process whose runner dies ends itself (par_ros.process.end_with_parent).
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

import rclpy
from lifecycle_msgs.msg import State, Transition
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from par_model.output_files import make_folder
from par_ros.node_graph import NodeEntry, NodeGraph
from par_ros.parameters import ParameterValue
from par_ros.participants import domain_id, require_room
from par_ros.process import ERROR_PREFIX, PARENT_VARIABLE, end_sentence, report_error
from par_ros.service_caller import ServiceCaller

# Ctrl-C has to end everything within 3 s.
END_GRACE_S = 1.5
# Participants on one machine mostly find each other in this.
DISCOVERY_S = 2.0
# And the others in this: a message lost while two of them met is sent again after 3 s (the period
# of heartbeats and announcements in Fast DDS); one in five meetings was seen to need it.
LATE_DISCOVERY_S = 4.0
# Importing torch for the first time on a slow disk takes minutes.
START_TIMEOUT_S = 300.0
SERVICE_TIMEOUT_S = 60.0
# Loading a large policy and warming it up can take minutes.
CONFIGURE_TIMEOUT_S = 900.0
# Then the node is asked where it is: it may be at work, or a message was lost.
_ANSWER_S = 20.0
_GOALS = {
    Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
}
_POLL_S = 0.05
# How long the last line of a process may take through its pipe.
_LAST_WORDS_S = 1.0


class RunError(Exception):
    """The run could not start or go on; the text is the sentence for the user."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived."""


class Child:
    """One running process of the graph."""

    def __init__(self, entry: NodeEntry, graph: NodeGraph) -> None:
        self.entry = entry
        self.log_path: Path | None = None
        self._log: IO[bytes] | None = None
        if graph.log_folder is not None:
            self.log_path = graph.log_folder / f"{entry.name}.log"
            self._log = self.log_path.open("wb")
        environment = {**os.environ, **graph.environment, PARENT_VARIABLE: str(os.getpid())}
        to_screen = self._log is None or entry.is_looked_at
        self.process = subprocess.Popen(
            command_line(entry, graph.namespace),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=None if to_screen else self._log,
            stderr=subprocess.PIPE if self._log is None else self._log,
            start_new_session=True,
        )
        self._last_error: str | None = None
        self._error_came = threading.Event()
        if self.process.stderr is not None:
            threading.Thread(
                target=self._show_errors, args=(self.process.stderr,), daemon=True
            ).start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number for a process ended by one."""
        return self.process.poll()

    def send(self, number: signal.Signals) -> None:
        """Signal the process and all that it started."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()

    def sentence(self) -> str | None:
        """The last "error: ..." line of its output, without the prefix."""
        if self.log_path is None:
            self._error_came.wait(_LAST_WORDS_S)
            return self._last_error
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith(ERROR_PREFIX)]
        return errors[-1].removeprefix(ERROR_PREFIX) if errors else None

    def _show_errors(self, stream: IO[bytes]) -> None:
        """Pass the process's stderr on, and keep its "error: ..." lines: the runner says them."""
        for line in stream:
            text = line.decode("utf-8", errors="replace")
            if text.startswith(ERROR_PREFIX):
                self._last_error = text.removeprefix(ERROR_PREFIX).strip()
                self._error_came.set()
            else:
                sys.stderr.write(text)
        self._error_came.set()


class GraphRunner:
    """A graph's processes between `start` and leaving the `with` block, which ends them all."""

    def __init__(self, graph: NodeGraph) -> None:
        self._graph = graph
        self._children: list[Child] = []
        # Those without which the others go on.
        self._lost: list[Child] = []
        self._context = Context()
        self._node: Node | None = None
        self._executor: SingleThreadedExecutor | None = None
        self._services: ServiceCaller | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> "GraphRunner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all processes and bring the lifecycle nodes to active, guard first.

        Raises RunError when the domain holds a node of the same name, or a node does not come up;
        ValueError where the logs cannot be written or the domain is full.
        """
        os.environ.update(self._graph.environment)
        if self._graph.log_folder is not None:
            make_folder("the folder of the logs", self._graph.log_folder)
        # And this process.
        require_room(len(self._graph.nodes) + 1)
        self._take_domain()
        # No arguments: rclpy would take our own name:=value words for remaps.
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node("par_runner", context=self._context, namespace=self._graph.namespace)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._services = ServiceCaller(self._node, self._wait_until)
        known_s = time.monotonic() + LATE_DISCOVERY_S
        self._refuse_taken_names()
        for entry in self._graph.nodes:
            self._children.append(Child(entry, self._graph))
        managed = [entry for entry in self._graph.nodes if entry.lifecycle]
        for label, transition, timeout_s in (
            ("configured", Transition.TRANSITION_CONFIGURE, CONFIGURE_TIMEOUT_S),
            ("activated", Transition.TRANSITION_ACTIVATE, SERVICE_TIMEOUT_S),
        ):
            if transition == Transition.TRANSITION_ACTIVATE:
                self._refuse_names_found_late(known_s)
            for entry in managed:
                self._change_state(entry, label, transition, timeout_s)
        self._services.destroy()

    def wait(self) -> None:
        """Block until the process that ends the run has ended well.

        Raises RunError as soon as any process ends otherwise; where it is one without which the
        others go on, only at the run's end.
        """
        while not self._run_is_over(is_up=True):
            time.sleep(_POLL_S)
        missed = [child for child in self._lost if not child.entry.is_optional]
        if missed:
            names = ", ".join(child.entry.name for child in missed)
            raise RunError(f"the run has ended without {names}; the reason is above.")

    def stop(self) -> None:
        """End every process: SIGTERM, and SIGKILL after END_GRACE_S. Does not raise."""
        for child in self._children:
            if child.exit_code is None:
                child.send(signal.SIGTERM)
        deadline = time.monotonic() + END_GRACE_S
        while time.monotonic() < deadline and any(c.exit_code is None for c in self._children):
            time.sleep(_POLL_S)
        for child in self._children:
            # The group, whether or not its leader has ended: nothing of it may stay.
            child.send(signal.SIGKILL)
            child.process.wait()
            child.close()
        if self._executor is not None:
            self._executor.shutdown()
        if self._node is not None:
            self._node.destroy_node()
        self._context.try_shutdown()
        if self._lock is not None:
            self._lock.close()

    def _take_domain(self) -> None:
        """Refuse a second run of ours, which may not have made its nodes yet.

        Runs in other namespaces may share the domain. The lock ends with this process.
        """
        domain, namespace = domain_id(), self._graph.namespace.strip("/").replace("/", ".")
        name = f"par_ros_{os.getuid()}_domain{domain}_{namespace}.lock"
        self._lock = (Path(tempfile.gettempdir()) / name).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"ROS domain {domain} already holds a run with this namespace, which may still be "
                "starting; end that run, or choose another domain with domain_id:=N or another "
                "namespace:=NAME."
            ) from error

    def _run_is_over(self, is_up: bool = False) -> bool:
        """Whether it ended well. Raises RunError where a process ended that should not have."""
        for child in self._children:
            code = child.exit_code
            if code is None or child in self._lost:
                continue
            if child.entry.ends_run and code == 0:
                return True
            if child.entry.is_optional or (is_up and child.entry.others_go_on):
                self._lost.append(child)
                report_error(_loss_sentence(child, code))
                continue
            raise RunError(_end_sentence(child, code))
        return False

    def _refuse_taken_names(self) -> None:
        deadline = time.monotonic() + DISCOVERY_S
        while time.monotonic() < deadline:
            self._refuse(self._names_held(1))
            time.sleep(_POLL_S)

    def _refuse_names_found_late(self, known_s: float) -> None:
        """Before anything moves, and not before `known_s`, when every node is known."""
        left_s = known_s - time.monotonic()
        self._wait_until(lambda: bool(self._names_held(2)), max(left_s, 0.0))
        self._refuse(self._names_held(2))

    def _names_held(self, num_nodes: int) -> list[str]:
        """Names of this graph that at least so many nodes of the domain have."""
        assert self._node is not None
        namespace = "/" + self._graph.namespace.strip("/")
        ours = {(entry.name, namespace) for entry in self._graph.nodes}
        found = self._node.get_node_names_and_namespaces()
        held = {node for node in found if node in ours and found.count(node) >= num_nodes}
        return sorted(f"{namespace.rstrip('/')}/{name}" for name, namespace in held)

    @staticmethod
    def _refuse(names: list[str]) -> None:
        if names:
            raise RunError(
                f"ROS domain {domain_id()} already holds a node {names[0]}; end that run, or "
                "choose another domain with domain_id:=N or another namespace:=NAME."
            )

    def _change_state(
        self, entry: NodeEntry, label: str, transition: int, timeout_s: float
    ) -> None:
        assert self._services is not None
        if not self._services.wait_for_lifecycle(entry.name, START_TIMEOUT_S):
            raise RunError(
                f"{entry.name} did not come up within {START_TIMEOUT_S:.0f} s; see its log."
            )
        deadline = time.monotonic() + timeout_s
        succeeded = self._services.change_state(entry.name, transition, _ANSWER_S)
        while not succeeded:
            # While a node works on the request it answers nothing. One that answers this has lost
            # the request, or its answer was lost, as happens on a busy machine; or the request had
            # only waited, and a second one came too late.
            state = self._services.lifecycle_state(entry.name, _ANSWER_S)
            if state == _GOALS[transition]:
                return
            if succeeded is not None:
                child = next(child for child in self._children if child.entry is entry)
                sentence = child.sentence()
                raise RunError(sentence or f"{entry.name} could not be {label}; see its log.")
            if time.monotonic() > deadline:
                raise RunError(
                    f"{entry.name} gave no answer within {timeout_s:.0f} s; see its log."
                )
            if state is not None:
                succeeded = self._services.change_state(entry.name, transition, _ANSWER_S)

    def _wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Spin until it holds; False after the time. Raises RunError where a process ends."""
        assert self._executor is not None
        deadline = time.monotonic() + timeout_s
        while not condition():
            self._run_is_over()
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=_POLL_S)
        return True


def command_line(entry: NodeEntry, namespace: str) -> list[str]:
    """What is executed for `entry`."""
    words = [sys.executable, "-m", f"par_ros.{entry.executable}", "--ros-args"]
    words += ["-r", f"__node:={entry.name}"]
    if namespace:
        words += ["-r", f"__ns:=/{namespace.strip('/')}"]
    for name, target in entry.remappings:
        words += ["-r", f"{name}:={target}"]
    for name, value in entry.parameters.items():
        words += ["-p", f"{name}:={_yaml_text(value)}"]
    return words


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted, once; later ones do not disturb the taking down."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for later in (signal.SIGINT, signal.SIGTERM):
            signal.signal(later, signal.SIG_IGN)
        raise Interrupted

    previous = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _yaml_text(value: ParameterValue) -> str:
    """JSON is YAML, and says of "1" that it is text."""
    return json.dumps(value)


def _end_sentence(child: Child, code: int) -> str:
    sentence = child.sentence()
    if sentence is not None:
        return sentence
    where = f"; its output is in {child.log_path}" if child.log_path is not None else ""
    return f"{end_sentence(child.entry.name, code)}, so the run was ended{where}."


def _loss_sentence(child: Child, code: int) -> str:
    """As _end_sentence, where the others go on."""
    reason = child.sentence() or f"{end_sentence(child.entry.name, code)}."
    return f"{child.entry.name} has ended, the other processes continue: {reason}"

# SPDX-License-Identifier: Apache-2.0
"""Calls of other nodes' services: one that answers, one that does not, one that is not there."""

import time
from collections.abc import Callable, Iterator

import pytest
import rclpy
from lifecycle_msgs.msg import State, Transition
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from std_srvs.srv import Trigger

from par_ros.service_caller import ServiceCaller

pytestmark = pytest.mark.ros

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE


class Server(LifecycleNode):
    """A lifecycle node with a service; it cannot be activated."""

    def __init__(self) -> None:
        super().__init__("server")
        self.create_service(Trigger, "~/ask", self._answer)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.FAILURE

    @staticmethod
    def _answer(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = True, "here"
        return response


class Pair:
    """Server and caller, spun by the caller while it waits; the server may be left out."""

    def __init__(self) -> None:
        self.server, self.node = Server(), Node("caller")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.executor.add_node(self.server)
        self.caller = ServiceCaller(self.node, self.wait_until)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        end_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end_s:
                return False
            self.executor.spin_once(timeout_sec=0.02)
        return True


@pytest.fixture
def pair(ros: None) -> Iterator[Pair]:
    made = Pair()
    yield made
    made.executor.shutdown()
    made.server.destroy_node()
    made.node.destroy_node()


def test_an_answer_is_returned_and_the_client_is_kept(pair: Pair) -> None:
    for _ in range(2):
        answer = pair.caller.trigger("server/ask", 10.0)
        assert answer is not None
        assert (answer.success, answer.message) == (True, "here")
    assert len(list(pair.node.clients)) == 1
    pair.caller.destroy()
    assert not list(pair.node.clients)


def test_a_service_that_is_not_there_gives_no_answer_in_time(pair: Pair) -> None:
    began_s = time.monotonic()
    assert pair.caller.trigger("nobody/ask", 0.3) is None
    assert 0.3 <= time.monotonic() - began_s < 20.0
    assert not pair.caller.wait_for_service(Trigger, "nobody/ask", 0.1)


def test_a_late_answer_is_dropped_and_the_next_call_gets_its_own(pair: Pair) -> None:
    assert pair.caller.wait_for_service(Trigger, "server/ask", 10.0)
    pair.executor.remove_node(pair.server)
    assert pair.caller.trigger("server/ask", 0.3) is None
    (client,) = pair.node.clients
    assert not client._pending_requests
    pair.executor.add_node(pair.server)
    assert pair.caller.trigger("server/ask", 10.0) is not None


def test_a_lifecycle_node_is_driven_and_asked(pair: Pair) -> None:
    caller = pair.caller
    assert caller.wait_for_lifecycle("server", 10.0)
    assert caller.lifecycle_state("server", 10.0) == State.PRIMARY_STATE_UNCONFIGURED
    assert caller.change_state("server", CONFIGURE, 10.0) is True
    assert caller.lifecycle_state("server", 10.0) == State.PRIMARY_STATE_INACTIVE
    assert caller.change_state("server", ACTIVATE, 10.0) is False
    assert caller.change_state("nobody", CONFIGURE, 0.2) is None
    assert caller.lifecycle_state("nobody", 0.2) is None


def test_what_the_wait_raises_ends_the_call(pair: Pair) -> None:
    def fail(condition: Callable[[], bool], timeout_s: float) -> bool:
        raise RuntimeError("a process has ended")

    with pytest.raises(RuntimeError, match="a process has ended"):
        ServiceCaller(pair.node, fail).trigger("server/ask", 10.0)


def test_a_request_can_be_sent_without_waiting(pair: Pair) -> None:
    assert pair.caller.wait_for_service(Trigger, "server/ask", 10.0)
    future = pair.caller.send(Trigger, "server/ask", Trigger.Request())
    assert not future.done()
    assert pair.wait_until(future.done, 10.0)


def test_clients_can_be_made_at_once(ros: None) -> None:
    node = rclpy.create_node("caller")
    ServiceCaller(node, lambda condition, timeout_s: False, [(Trigger, "a"), (Trigger, "b")])
    assert len(list(node.clients)) == 2
    node.destroy_node()

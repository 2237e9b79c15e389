# SPDX-License-Identifier: Apache-2.0
"""Calls the services of other nodes, their lifecycle included, and waits for the answers."""

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from std_srvs.srv import Trigger

if TYPE_CHECKING:
    from rclpy.client import Client
    from rclpy.task import Future

# wait_until(condition, timeout_s): True as soon as the condition holds, False after the timeout.
WaitUntil = Callable[[Callable[[], bool], float], bool]


class ServiceCaller:
    """One client for each service, made when it is first needed.

    Every call blocks for `timeout_s` at most, the wait for the service included, and gives None
    where no answer came; a late answer is dropped. What `wait_until` raises ends the call.
    """

    def __init__(
        self, node: Node, wait_until: WaitUntil, services: Iterable[tuple[Any, str]] = ()
    ) -> None:
        """wait_until: spins `node` until the condition holds, or sleeps where others spin it.
        services: type and name; their clients are made now.
        """
        self._node = node
        self._wait_until = wait_until
        self._clients: dict[str, Client[Any, Any]] = {}
        for service_type, name in services:
            self._client(service_type, name)

    def destroy(self) -> None:
        """Destroy the clients; a later call makes a new one."""
        for client in self._clients.values():
            self._node.destroy_client(client)
        self._clients = {}

    def wait_for_service(self, service_type: Any, name: str, timeout_s: float) -> bool:
        """Whether the service is there within the time."""
        return self._wait_until(self._client(service_type, name).service_is_ready, timeout_s)

    def call(self, service_type: Any, name: str, request: Any, timeout_s: float) -> Any:
        """The response of the service `name`, or None."""
        deadline_s = time.monotonic() + timeout_s
        client = self._client(service_type, name)
        if not self._wait_until(client.service_is_ready, timeout_s):
            return None
        future = client.call_async(request)
        if self._wait_until(future.done, max(deadline_s - time.monotonic(), 0.0)):
            return future.result()
        client.remove_pending_request(future)
        return None

    def send(self, service_type: Any, name: str, request: Any) -> "Future[Any]":
        """Send the request without waiting for anything; the future of its response."""
        return self._client(service_type, name).call_async(request)

    def trigger(self, name: str, timeout_s: float) -> Trigger.Response | None:
        """Call a service without arguments."""
        response: Trigger.Response | None = self.call(Trigger, name, Trigger.Request(), timeout_s)
        return response

    def lifecycle_state(self, node: str, timeout_s: float) -> int | None:
        """The id of the state that a lifecycle node is in."""
        response = self.call(GetState, f"{node}/get_state", GetState.Request(), timeout_s)
        return None if response is None else int(response.current_state.id)

    def change_state(self, node: str, transition: int, timeout_s: float) -> bool | None:
        """Ask a lifecycle node for a transition: whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        response = self.call(ChangeState, f"{node}/change_state", request, timeout_s)
        return None if response is None else bool(response.success)

    def wait_for_lifecycle(self, node: str, timeout_s: float) -> bool:
        """Whether the node's lifecycle services are there within the time."""
        return self.wait_for_service(
            GetState, f"{node}/get_state", timeout_s
        ) and self.wait_for_service(ChangeState, f"{node}/change_state", timeout_s)

    def _client(self, service_type: Any, name: str) -> "Client[Any, Any]":
        if name not in self._clients:
            self._clients[name] = self._node.create_client(service_type, name)
        return self._clients[name]

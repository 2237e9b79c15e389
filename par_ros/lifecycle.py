# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node that the others derive from: it survives a request for a wrong transition."""

from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode


class ManagedNode(LifecycleNode):
    """Answers such a request with success False and logs an error.

    rclpy 7 (Jazzy) raises RCLError out of the executor instead, which ends the process: one
    "activate" too many would stop the guard of a moving arm. rclpy 9 (Kilted) answers by itself.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._rclpy_change_state = self._service_change_state.callback
        self._service_change_state.callback = self._change_state_or_refuse

    def _change_state_or_refuse(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        try:
            return self._rclpy_change_state(request, response)
        except rclpy_implementation.RCLError as error:
            wanted = request.transition
            self.get_logger().error(
                f"cannot make transition {wanted.label or wanted.id} in the present state: {error}"
            )
            response.success = False
            return response

# SPDX-License-Identifier: Apache-2.0
"""An operator who engages the guard of a graph that runs in other processes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from par_ros.topics import ENGAGE

_ANSWER_S = 5.0
_BETWEEN_S = 0.5


@contextmanager
def operator(domain_id: int, namespace: str) -> Iterator[None]:
    """Inside, a thread asks the guard to engage until it does, once."""
    is_over = threading.Event()
    thread = threading.Thread(target=_engage, args=(domain_id, namespace, is_over))
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _engage(domain_id: int, namespace: str, is_over: threading.Event) -> None:
    context = Context()
    no_handlers = SignalHandlerOptions.NO
    rclpy.init(args=[], context=context, domain_id=domain_id, signal_handler_options=no_handlers)
    node = Node("operator", context=context, namespace=namespace)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    client = node.create_client(Trigger, ENGAGE.client_name)
    try:
        while not is_over.wait(_BETWEEN_S):
            if not client.service_is_ready():
                continue
            future = client.call_async(Trigger.Request())
            deadline_s = time.monotonic() + _ANSWER_S
            while not (future.done() or is_over.is_set()) and time.monotonic() < deadline_s:
                executor.spin_once(timeout_sec=0.1)
            reply = future.result() if future.done() else None
            if reply is not None and reply.success:
                return
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()

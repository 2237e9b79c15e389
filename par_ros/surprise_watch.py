# SPDX-License-Identifier: Apache-2.0
"""What policy_node does about observations that its model finds unlikely: it publishes how unlikely
they are, and above the second threshold tells the guard to disengage. It can only stop an arm;
surprise_resume auto, which calls the guard's engage again, exists in simulated time alone.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import Trigger

from par_model.misfit import Misfit
from par_model.surprise import SurpriseCalibration, cause, surprise
from par_ros import messages
from par_ros.parameters import PolicyNodeParameters
from par_ros.policy_report import PolicyReport
from par_ros.topics import DISENGAGE, ENGAGE, SURPRISE
from par_ros.wire_records import Surprise

# The guard answers within a control step.
_ANSWER_TIMEOUT_S = 1.0
# How often it is asked whether the answer is still wanted.
_LOOK_S = 0.02


class SurpriseStop(ValueError):
    """An observation above the second threshold: the guard was told to disengage."""

    kind = "surprise"


@runtime_checkable
class Foreteller(Protocol):
    """A policy that knows how badly the newest observation fits what it expected."""

    def misfit(self) -> Misfit | None:
        """None for the first observation of a context."""

    def foretell(self) -> None:
        """Do what it can of the next `misfit`."""


class SurpriseWatch:
    """Of one configured policy; `look` runs in the worker thread, while another one spins. With
    surprise "off" nothing is computed, published or called.

    Args:
        report: told what each observation was found to be, before anything is done about it.

    Raises ValueError where the policy foretells nothing or has no thresholds, and where a stop
    would resume by itself outside simulated time.
    """

    def __init__(
        self,
        node: LifecycleNode,
        policy: object,
        settings: PolicyNodeParameters,
        report: PolicyReport,
    ) -> None:
        self._node, self._settings, self._report = node, settings, report
        if settings.surprise_resume == "auto" and not node.get_parameter("use_sim_time").value:
            raise ValueError(
                "policy_node: surprise_resume auto exists in simulated time only (use_sim_time is "
                "false); use engage, and let a person look at the arm before it resumes."
            )
        self._publisher: Any = None
        self._clients: dict[str, Any] = {}
        if settings.surprise == "off":
            return
        if not isinstance(policy, Foreteller):
            raise ValueError("this policy does not foretell its observations; set surprise:=off.")
        self._policy = policy
        self.begin_episode()
        self._calibration = SurpriseCalibration.read(Path(settings.checkpoint))
        self._calibration.of(settings.instruction)
        # Two arms' policies have a topic each, and the name of their node in it.
        self._name = messages.status_name(node)
        self._publisher = node.create_lifecycle_publisher(
            SURPRISE.message_type, SURPRISE.name, SURPRISE.writer_qos.profile()
        )
        # Not even a client of a service that this node may not call.
        services = (DISENGAGE, ENGAGE) if settings.surprise_resume == "auto" else (DISENGAGE,)
        self._clients = {
            entry.name: node.create_client(Trigger, entry.client_name) for entry in services
        }

    def destroy(self) -> None:
        """Stop publishing."""
        if self._publisher is not None:
            self._node.destroy_lifecycle_publisher(self._publisher)
        for client in self._clients.values():
            self._node.destroy_client(client)

    def begin_episode(self) -> None:
        """Forget a stop that the guard has not confirmed, and that one is to be resumed from. In
        the worker thread, so that a `look` of the episode before is over."""
        # Why the guard must disengage, until it has said that it did.
        self._stop, self._resume = "", False

    def look(self, stamp_ns: int, instruction: str, is_wanted: Callable[[], bool]) -> None:
        """Publish how unlikely the newest observation was; the first of a context is not judged.

        Above the second threshold, with surprise "stop", the guard is told to disengage, and again
        with each later observation until it has said within a second that it did. Otherwise, with
        surprise_resume "auto", it is engaged again after a stop.

        Args:
            is_wanted: whether the observation's episode still runs; after it the guard's answer is
                not waited for, and the guard is not engaged.

        Raises SurpriseStop where the guard was told and no chunk is to be sent. In lockstep one is:
        physics waits for it, and the guard answers it with a hold.
        """
        if self._settings.surprise == "off":
            return
        found = self._judge(stamp_ns, instruction)
        self._report.note_surprise(found)
        if found is not None and found.level == 2 and self._settings.surprise == "stop":
            self._stop = found.sentence()
        if self._stop:
            self._disengage(self._stop, is_wanted)
        elif self._resume and is_wanted() and (found is None or found.level < 2):
            self._resume = not _call(self._clients[ENGAGE.name], is_wanted)

    def foretell(self) -> None:
        """Prepare for the next `look`, once the chunk is sent."""
        if self._settings.surprise != "off":
            self._policy.foretell()

    def _disengage(self, why: str, is_wanted: Callable[[], bool]) -> None:
        log = self._node.get_logger()
        log.error(f"the guard is told to disengage: {why}")
        if _call(self._clients[DISENGAGE.name], is_wanted):
            self._stop = ""
        elif not is_wanted():
            log.error("the episode has ended before the guard said that it disengaged.")
        else:
            log.error("the guard has not said that it disengaged; it is told again; stop the arm.")
        self._resume = self._settings.surprise_resume == "auto"
        if self._settings.mode != "lockstep":
            raise SurpriseStop(why)

    def _judge(self, stamp_ns: int, instruction: str) -> Surprise | None:
        misfit = self._policy.misfit()
        if misfit is None:
            return None
        limits = self._calibration.of(instruction)
        found = Surprise(stamp_ns, surprise(misfit), limits.first, limits.second, cause(misfit))
        level = messages.WARN if found.level else messages.OK
        text = found.sentence() if found.level else "as expected"
        status = messages.Status(self._name, level, text, found.to_values())
        self._publisher.publish(messages.status_message(status))
        return found


def _call(client: Any, is_wanted: Callable[[], bool]) -> bool:
    """Whether the service said yes within the time, and while it was wanted."""
    done = threading.Event()
    future = client.call_async(Trigger.Request())
    future.add_done_callback(lambda _: done.set())
    end_s = time.monotonic() + _ANSWER_TIMEOUT_S
    while not done.wait(_LOOK_S) and is_wanted() and time.monotonic() < end_s:
        pass
    if done.is_set():
        return bool(future.result().success)
    client.remove_pending_request(future)
    return False

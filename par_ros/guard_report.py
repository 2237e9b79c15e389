# SPDX-License-Identifier: Apache-2.0
"""The guard's status messages: /diagnostics and guard_state."""

from par_ros import messages
from par_ros.control.guard import Guard
from par_ros.wire_records import GuardState, GuardStatus


def state_of(guard: Guard) -> tuple[bytes, str]:
    """Diagnostic level and a sentence about the guard's state."""
    if guard.owes_stop:
        return messages.ERROR, "a stop could not be sent yet; it is planned again at each tick"
    if guard.stop_latched:
        return messages.ERROR, "stopped; reset_stop, then engage"
    if guard.last_fault is not None:
        return messages.ERROR, f"disengaged: {guard.last_fault.reason}"
    if not guard.engaged:
        return messages.WARN, "disengaged"
    if guard.holding:
        return messages.WARN, f"holding: {guard.holding}"
    return messages.OK, "engaged"


def guard_state(name: str, guard: Guard) -> messages.Status:
    """The topic guard_state: engaged, stop_latched, holding and fault."""
    level, text = state_of(guard)
    fault = guard.last_fault
    state = GuardState(
        guard.engaged, guard.stop_latched, guard.holding, "" if fault is None else fault.kind
    )
    return messages.Status(name, level, text, state.to_values())


def diagnostics(name: str, guard: Guard, last_event: str, more: dict[str, str]) -> messages.Status:
    """The same with the counters, for people and reports."""
    level, text = state_of(guard)
    status = GuardStatus(
        guard.engaged,
        guard.stop_latched,
        guard.holding,
        guard.counters["holds"],
        guard.counters["tracked"],
        last_event,
    )
    values = {
        **status.to_values(),
        **more,
        **{name: str(count) for name, count in sorted(guard.counters.items()) if name != "holds"},
    }
    return messages.Status(name, level, text, values)

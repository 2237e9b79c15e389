# SPDX-License-Identifier: Apache-2.0
"""One interface for several guards, so that the fuzzer can judge another checkout's guard.

`use_guard_of` makes this process import par_ros (all but par_ros.proof) from another folder; it
must run before anything of the guard is imported. `make_guard` builds whichever guard is there.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from par_ros.control.arm_spec import ArmSpec
    from par_ros.control.joint_trajectory import FloatArray
    from par_ros.control.safety_filter import RequestedChunk

# The guard of b4ea460 promises this; later ones say what they promise in their settings.
_OLD_SPLICE_S = 0.01
# In a simulator a message waits for up to a control step; where chunks start at control steps, the
# arm stands until the next one.
_SIMULATOR_SPLICE_S = 0.08
_CONTROL_STEP_SPLICE_S = 0.002
# 18 actions of 0.05 s less two.
_OVERLAPPED_AGE_S = 0.8


@dataclass(frozen=True)
class GuardMode:
    """What the world is like, for the guard's settings."""

    lockstep: bool
    sim_clock: bool
    chunk_start: str
    has_reference: bool
    overlapped: bool = False

    @property
    def num_actions(self) -> int:
        """Of a chunk; with overlapped inference those of the look-ahead too."""
        return 18 if self.overlapped else 8

    @property
    def name(self) -> str:
        """For reports."""
        clock = "lockstep" if self.lockstep else "simulator" if self.sim_clock else "arm"
        reference = "" if self.has_reference or self.lockstep else ", no reference"
        start = "overlapped" if self.overlapped else self.chunk_start
        return f"{clock}, {start}{reference}"


@dataclass(frozen=True)
class Instant:
    """Both clocks when the guard is called."""

    ros_ns: int
    steady_ns: int


class GuardFace(Protocol):
    """What the world needs of a guard. Commands and replies are the guard's own types.

    Attributes:
        splice_s: how late after the given moment a trajectory may be picked up.
        send_within_s: what took longer to compute is withdrawn; None: the guard does not look.
    """

    splice_s: float
    send_within_s: float | None

    @property
    def engaged(self) -> bool: ...

    @property
    def stop_latched(self) -> bool: ...

    @property
    def fault_kind(self) -> str: ...

    @property
    def counters(self) -> Mapping[str, int]: ...

    def on_joint_state(
        self, stamp_ns: int, positions: "FloatArray", velocities: "FloatArray | None", now: Instant
    ) -> Any: ...

    def on_bad_joint_state(self, reason: str, now: Instant) -> Any: ...

    def on_reference(
        self, stamp_ns: int, state: "tuple[FloatArray, FloatArray, FloatArray]", now: Instant
    ) -> Any: ...

    def on_chunk(self, chunk: "RequestedChunk", now: Instant) -> Any: ...

    def on_bad_chunk(self, reason: str, now: Instant) -> Any: ...

    def on_tick(self, num_policies: int, now: Instant) -> Any: ...

    def withdraw(self, now: Instant) -> Any: ...

    def engage(self, now: Instant) -> Any: ...

    def disengage(self, now: Instant) -> Any: ...

    def e_stop(self, now: Instant) -> Any: ...

    def reset_stop(self) -> Any: ...

    def renewed(self, *, keeps_latch: bool) -> "GuardFace": ...


class _CommonFace:
    """What old and new guards share."""

    def __init__(self, guard: Any) -> None:
        self._guard = guard

    @property
    def engaged(self) -> bool:
        return bool(self._guard.engaged)

    @property
    def stop_latched(self) -> bool:
        return bool(self._guard.stop_latched)

    @property
    def fault_kind(self) -> str:
        fault = self._guard.last_fault
        return "" if fault is None else str(fault.kind)

    @property
    def counters(self) -> Mapping[str, int]:
        counters: Mapping[str, int] = self._guard.counters
        return counters

    def reset_stop(self) -> Any:
        return self._guard.reset_stop()


class MomentGuard(_CommonFace):
    """The guard that takes a Moment and the controller's reference."""

    def __init__(self, spec: "ArmSpec", mode: GuardMode, latch: Any = None) -> None:
        from par_ros.control import guard as module
        from par_ros.control.joint_states import JointSample
        from par_ros.control.reference_watch import ReferenceSample
        from par_ros.control.timeline import Moment

        self._types: tuple[Any, Any, Any] = (Moment, JointSample, ReferenceSample)
        self._spec, self._mode = spec, mode
        known = inspect.signature(module.GuardSettings).parameters
        settings: dict[str, Any] = {
            "lockstep": mode.lockstep,
            "sim_clock": mode.sim_clock,
            "chunk_start": mode.chunk_start,
            "expects_reference": mode.has_reference,
        }
        if mode.overlapped:
            settings |= {
                "inference": "overlapped",
                "num_actions": mode.num_actions,
                "max_observation_age_s": _OVERLAPPED_AGE_S,
            }
        if mode.sim_clock:
            at_steps = mode.chunk_start == "control_step"
            settings["splice_s"] = _CONTROL_STEP_SPLICE_S if at_steps else _SIMULATOR_SPLICE_S
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"this guard's settings have no {unknown}; check --guard-path.")
        made: Any = module.GuardSettings(**settings)
        self.splice_s: float = made.splice_s
        self.send_within_s: float | None = made.send_within_s
        self._latch = latch if latch is not None else module.StopLatch()  # type: ignore[attr-defined]
        super().__init__(module.Guard(spec, made, self._latch))  # type: ignore[call-arg]

    def on_joint_state(
        self, stamp_ns: int, positions: "FloatArray", velocities: "FloatArray | None", now: Instant
    ) -> Any:
        sample = self._types[1](stamp_ns, positions, velocities)
        return self._guard.on_joint_state(sample, self._moment(now))

    def on_bad_joint_state(self, reason: str, now: Instant) -> Any:
        return self._guard.on_bad_joint_state(reason, self._moment(now))

    def on_reference(
        self, stamp_ns: int, state: "tuple[FloatArray, FloatArray, FloatArray]", now: Instant
    ) -> Any:
        return self._guard.on_reference(self._types[2](stamp_ns, *state), self._moment(now))

    def on_chunk(self, chunk: "RequestedChunk", now: Instant) -> Any:
        return self._guard.on_chunk(chunk, self._moment(now))

    def on_bad_chunk(self, reason: str, now: Instant) -> Any:
        return self._guard.on_bad_chunk(reason, self._moment(now))

    def on_tick(self, num_policies: int, now: Instant) -> Any:
        return self._guard.on_tick(num_policies, self._moment(now))

    def withdraw(self, now: Instant) -> Any:
        return self._guard.withdraw(self._moment(now))

    def engage(self, now: Instant) -> Any:
        return self._guard.engage(self._moment(now))

    def disengage(self, now: Instant) -> Any:
        return self._guard.disengage(self._moment(now))

    def e_stop(self, now: Instant) -> Any:
        return self._guard.e_stop(self._moment(now))

    def renewed(self, *, keeps_latch: bool) -> "MomentGuard":
        return MomentGuard(self._spec, self._mode, self._latch if keeps_latch else None)

    def _moment(self, now: Instant) -> Any:
        return self._types[0](now.ros_ns, now.steady_ns)


class ClockPairGuard(_CommonFace):
    """The guard of b4ea460: two clocks in each call; no reference, no withdrawal, no lasting latch.

    Its reader takes absent velocities for zero, and so does this.
    """

    splice_s = _OLD_SPLICE_S
    send_within_s = None

    def __init__(self, spec: "ArmSpec", mode: GuardMode) -> None:
        from par_ros.control import observation_assembler
        from par_ros.control.guard import Command, Guard, GuardSettings

        self._sample_type: Any = observation_assembler.JointSample  # type: ignore[attr-defined]
        self._nothing: Any = Command()
        self._spec, self._mode = spec, mode
        make: Any = GuardSettings
        settings = make(
            lockstep=mode.lockstep,
            chunk_start="arrival" if mode.chunk_start == "control_step" else mode.chunk_start,
            trajectory_stamp="pickup" if mode.sim_clock else "start",
        )
        super().__init__(Guard(spec, settings))

    def on_joint_state(
        self, stamp_ns: int, positions: "FloatArray", velocities: "FloatArray | None", now: Instant
    ) -> Any:
        known = positions * 0.0 if velocities is None else velocities
        sample = self._sample_type(stamp_ns, positions, known)
        return self._guard.on_joint_state(sample, *_pair(now))

    def on_bad_joint_state(self, reason: str, now: Instant) -> Any:
        return self._guard.on_bad_joint_state(reason, *_pair(now))

    def on_reference(
        self, stamp_ns: int, state: "tuple[FloatArray, FloatArray, FloatArray]", now: Instant
    ) -> Any:
        return self._nothing

    def on_chunk(self, chunk: "RequestedChunk", now: Instant) -> Any:
        return self._guard.on_chunk(chunk, *_pair(now))

    def on_bad_chunk(self, reason: str, now: Instant) -> Any:
        return self._guard.on_bad_chunk(reason, *_pair(now))

    def on_tick(self, num_policies: int, now: Instant) -> Any:
        return self._guard.on_tick(num_policies, *_pair(now))

    def withdraw(self, now: Instant) -> Any:
        return self._nothing

    def engage(self, now: Instant) -> Any:
        return self._guard.engage(*_pair(now))

    def disengage(self, now: Instant) -> Any:
        return self._guard.disengage(*_pair(now))

    def e_stop(self, now: Instant) -> Any:
        return self._guard.e_stop(*_pair(now))

    def renewed(self, *, keeps_latch: bool) -> "ClockPairGuard":
        return ClockPairGuard(self._spec, self._mode)


def _pair(now: Instant) -> tuple[int, float]:
    return now.ros_ns, now.steady_ns * 1e-9


def make_guard(spec: "ArmSpec", mode: GuardMode) -> GuardFace:
    """The guard that this process has."""
    from par_ros.control.guard import Guard

    if "now_ns" in inspect.signature(Guard.engage).parameters:
        return ClockPairGuard(spec, mode)
    return MomentGuard(spec, mode)


class _OtherFolder(importlib.abc.MetaPathFinder):
    """Finds par_ros.X in another checkout, unless X is the proof itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith("par_ros.") or name.startswith("par_ros.proof"):
            return None
        place = self._folder.joinpath(*name.split("."))
        if place.is_dir():
            return importlib.util.spec_from_file_location(
                name, place / "__init__.py", submodule_search_locations=[str(place)]
            )
        return importlib.util.spec_from_file_location(name, place.with_suffix(".py"))


def use_guard_of(folder: Path) -> None:
    """Import everything of par_ros but the proof from `folder` from now on.

    Raises:
        ValueError: there is no guard.
    """
    if not (folder / "par_ros" / "control" / "guard.py").is_file():
        raise ValueError(
            f"{folder} must be a checkout with par_ros/control/guard.py, none is there; check "
            "--guard-path."
        )
    for name in [name for name in sys.modules if name.startswith("par_ros.")]:
        if name != __name__ and name != "par_ros.proof":
            del sys.modules[name]
    package = sys.modules["par_ros"]
    for name in ("control", "parameters"):
        if hasattr(package, name):
            delattr(package, name)
    sys.meta_path.insert(0, _OtherFolder(folder))

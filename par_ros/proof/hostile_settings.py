# SPDX-License-Identifier: Apache-2.0
"""What a run's clocks, controller and arm are like, drawn once."""

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.joint_trajectory import FloatArray
from par_ros.proof.hostile_arm import ArmSettings
from par_ros.proof.hostile_clock import NANOSECONDS, LumpClock, RosClock
from par_ros.proof.hostile_controller import Rule
from par_ros.proof.hostile_cycles import ArmCycles, SimulatorCycles
from par_ros.proof.hostile_disturbances import Disturbances

# A simulator's time is prepared.
CONTROL_STEP_NS = 50_000_000
MAX_STEPS = 12_000

_ROS_BEGIN_NS = 1_700_000_000 * NANOSECONDS
Generator = np.random.Generator


def random_pose(spec: ArmSpec, random: Generator) -> FloatArray:
    """Arm positions [J] inside the limits."""
    limits = spec.limits
    share = random.uniform(0.05, 0.95, spec.num_arm_joints)
    pose: FloatArray = limits.min_position + share * (limits.max_position - limits.min_position)
    return pose


def simulator_cycles(wild: Disturbances, *, lockstep: bool, lead_ns: int = 0) -> SimulatorCycles:
    """Control steps that take as long as they simulate, or more, or less."""
    durations = np.full(MAX_STEPS, 1.0)
    if wild.has("lumpy_clock") and not lockstep:
        lumps = wild.generator("lumpy_clock")
        slow = lumps.random(MAX_STEPS) < 0.05
        durations = np.where(
            slow, lumps.uniform(1.2, 2.5, MAX_STEPS), lumps.uniform(0.95, 1.05, MAX_STEPS)
        )
    begins_ns = np.cumsum(durations * CONTROL_STEP_NS).astype(np.int64)
    clock = LumpClock(_ROS_BEGIN_NS, CONTROL_STEP_NS, begins_ns - begins_ns[0])
    return SimulatorCycles(clock, CONTROL_STEP_NS, lead_ns)


def arm_cycles(wild: Disturbances, random: Generator) -> tuple[ArmCycles, Rule]:
    """A real-time loop of any rate and phase."""
    clock = RosClock(_ROS_BEGIN_NS + int(random.integers(NANOSECONDS)))
    period_ns = 1_000_000
    if wild.has("slow_controller"):
        period_ns = round(abs(wild.spread("slow_controller", 2e6, 1e7)))
    jitter_ns = np.zeros(1, np.int64)
    if wild.has("cycle_jitter"):
        share = wild.generator("cycle_jitter").uniform(-0.1, 0.1, 4093)
        share *= wild.uniform("cycle_jitter", 0.05, 1.0)
        jitter_ns = (share * period_ns).astype(np.int64)
    phase_ns = int(random.integers(period_ns))
    rule: Rule = "humble" if wild.has("humble") else "kilted"
    return ArmCycles(clock, period_ns, phase_ns, jitter_ns), rule


def arm_settings(spec: ArmSpec, wild: Disturbances) -> ArmSettings:
    """Lag, sag and noise."""
    lag_s, damping = 0.0, None
    if wild.has("arm_lag"):
        lag_s = wild.uniform("arm_lag", 0.005, 0.8 * spec.tracking_lag_s)
        if wild.uniform("arm_lag", 0.0, 1.0) < 0.5:
            damping = wild.uniform("arm_lag", 0.5, 1.5)
    elif wild.has("collisions"):
        # A joint that gets loose does not jump.
        lag_s = 0.03
    sag_rad = np.zeros(spec.num_arm_joints)
    if wild.has("arm_sag"):
        size_rad = abs(wild.spread("arm_sag", 1e-5, 1e-2))
        sag_rad = wild.generator("arm_sag").uniform(-size_rad, size_rad, len(sag_rad))
    noise_rad = abs(wild.spread("arm_noise", 1e-6, 3e-4)) if wild.has("arm_noise") else 0.0
    return ArmSettings(lag_s, damping, sag_rad, noise_rad)


def cmd_timeout_s(wild: Disturbances) -> float:
    """After how much rest the controller holds by itself; 0: never."""
    return wild.uniform("cmd_timeout", 0.6, 2.0) if wild.has("cmd_timeout") else 0.0

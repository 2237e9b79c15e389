# SPDX-License-Identifier: Apache-2.0
"""The arm that the guard guards: its file, with what the parameters put in place of it."""

import dataclasses
import typing

from par_ros.control.arm_spec import ArmSpec, Check
from par_ros.parameters import SafetyNodeParameters, read_arm_spec


def read_guarded_arm(parameters: SafetyNodeParameters) -> ArmSpec:
    """The arm file, with `limit_checks` and `collision_checks` where they are set.

    Raises ValueError for a file that cannot be read, and for collision checks that it has no shapes
    for.
    """
    spec = read_arm_spec(parameters.arm)
    if parameters.limit_checks != "arm":
        check = typing.cast(Check, parameters.limit_checks)
        spec = dataclasses.replace(spec, acceleration_check=check, jerk_check=check)
    if parameters.collision_checks == "arm":
        return spec
    is_on = parameters.collision_checks == "on"
    if spec.collision is None:
        if is_on:
            raise ValueError(
                f"collision_checks is on and the file of arm {parameters.arm!r} has no section "
                "collision; write one (config/arms/template.yaml), or leave collision_checks out."
            )
        return spec
    return dataclasses.replace(spec, collision=dataclasses.replace(spec.collision, enabled=is_on))


def require_a_person_to_engage(parameters: SafetyNodeParameters) -> None:
    """Raises ValueError for an arm that may be real and would engage by itself."""
    is_simulated = parameters.reference == "topic" or parameters.mode == "lockstep"
    if parameters.auto_engage and not (is_simulated or parameters.dry_run):
        raise ValueError(
            "safety_node: auto_engage is for simulated arms, and with reference "
            f"{parameters.reference} the arm may be a real one; leave auto_engage out and call "
            "~/engage, or for a simulated arm set reference to topic or mode to lockstep."
        )

# SPDX-License-Identifier: Apache-2.0
"""The command: arguments, the two tables of checks, and what is printed."""

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from par_ros.control.settings import parameter, same_as
from par_ros.doctor.graph import GRAPH_CHECKS, NAME, Listener, Needs
from par_ros.doctor.machine import MACHINE_CHECKS
from par_ros.graph_arguments import ArmArguments, RealArmArguments
from par_ros.graph_environment import graph_environment
from par_ros.node_graph import checkpoint_folder, real_arm_names
from par_ros.parameters import read_arm_spec


@dataclass(frozen=True)
class DoctorArguments(RealArmArguments):
    """doctor: checks machine, graph, camera and arm for real_arm; --json prints JSON."""

    instruction: str = same_as(
        ArmArguments, "instruction", description="not looked at; taken as real_arm takes it"
    )
    listen_s: float = parameter(
        5.0, "how long the graph is listened to", unit="s", minimum=1.0, maximum=600.0
    )
    json: bool = parameter(False, "print JSON, as --json does")


@dataclass(frozen=True)
class Finding:
    """One line: what was found, or what is wrong and the next step."""

    name: str
    ok: bool
    text: str


def run_doctor(arguments: DoctorArguments) -> bool:
    """Print a line a check; True where all are ok."""
    os.environ.update(graph_environment(arguments.fastdds_profile, arguments.domain_id))
    findings = examine(arguments)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{'ok ' if finding.ok else 'BAD'}  {finding.name:{width}}  {finding.text}")
    return all(finding.ok for finding in findings)


def examine(arguments: DoctorArguments) -> list[Finding]:
    """All checks of the machine, and those of the graph where they can be made."""
    findings = [_finding(name, check) for name, check in MACHINE_CHECKS.items()]
    try:
        spec = read_arm_spec(arguments.robot)
        needs = Needs.of(checkpoint_folder(arguments.checkpoint), spec, arguments.joint_prefix)
    except ValueError as error:
        return [*findings, Finding("arm_and_checkpoint", False, str(error))]
    if not next(finding.ok for finding in findings if finding.name == "middleware"):
        return findings
    return findings + _examine_graph(arguments, needs)


def _examine_graph(arguments: DoctorArguments, needs: Needs) -> list[Finding]:
    try:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    except rclpy_implementation.RCLError as error:
        reason = " ".join(str(error).split())
        return [Finding("graph", False, f"ROS cannot start: {reason}; check ROS_DOMAIN_ID.")]
    try:
        node = _make_node(arguments)
        listener = Listener(
            node,
            needs,
            transport=arguments.image_transport,
            dry_run=arguments.dry_run,
            reference=arguments.reference,
        )
        listener.listen(arguments.listen_s)
        return [
            _finding(name, lambda check=check: check(listener))  # type: ignore[misc]
            for name, check in GRAPH_CHECKS.items()
        ]
    finally:
        rclpy.try_shutdown()


def _make_node(arguments: DoctorArguments) -> Node:
    """Named and remapped as the nodes of real_arm."""
    words = ["--ros-args"]
    for name, target in real_arm_names(arguments).items():
        words += ["-r", f"{name}:={target}"]
    return Node(
        NAME,
        namespace=arguments.namespace,
        cli_args=words,
        parameter_overrides=[Parameter("use_sim_time", value=arguments.use_sim_time)],
        enable_rosout=False,
    )


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except ValueError as error:
        return Finding(name, False, str(error))

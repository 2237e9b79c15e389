# SPDX-License-Identifier: Apache-2.0
"""node_graph.py's table as launch actions: what launch/*.launch.py consist of."""

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.events import Shutdown as ShutdownEvent
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from par_ros.node_graph import GRAPHS, NodeEntry, NodeGraph, parse_arguments
from par_ros.parameters import constraint_of
from par_ros.process import PARENT_VARIABLE

PACKAGE = "par_ros"


def launch_description(name: str) -> LaunchDescription:
    """The graph called `name`, with its arguments declared."""
    declarations = [
        DeclareLaunchArgument(
            field.name,
            default_value=_argument_text(field.default),
            description=constraint_of(field).description,
        )
        for field in dataclasses.fields(GRAPHS[name].arguments_type)
    ]
    return LaunchDescription([*declarations, OpaqueFunction(function=_actions, args=[name])])


def _actions(context: LaunchContext, name: str) -> list[Any]:
    """Everything to do, now that the arguments are known. Raises ValueError for a wrong one."""
    kind = GRAPHS[name]
    texts = {
        field.name: LaunchConfiguration(field.name).perform(context)
        for field in dataclasses.fields(kind.arguments_type)
    }
    command = " ".join(["ros2 launch", *sys.argv[2:]])
    arguments = parse_arguments(kind.arguments_type, name, texts | _misspelt(name, set(texts)))
    return [*_end_with_launch(context), *graph_actions(kind.build(arguments, command))]


def _misspelt(name: str, known: set[str]) -> dict[str, str]:
    """Arguments of the command line that launch would pass over in silence. Nothing where this
    file is included by another one, whose arguments they may be."""
    words = sys.argv[1:]
    if all(Path(word).name != f"{name}.launch.py" for word in words):
        return {}
    given = dict(word.split(":=", 1) for word in words if ":=" in word)
    return {argument: text for argument, text in given.items() if argument not in known}


def _end_with_launch(context: LaunchContext) -> list[Any]:
    """The nodes end when the launch process is killed: by itself it leaves them running, with an
    engaged guard among them. Behind a launch-prefix it is not their parent, and nothing is done."""
    if context.launch_configurations.get("launch-prefix"):
        return []
    return [SetEnvironmentVariable(PARENT_VARIABLE, str(os.getpid()))]


def graph_actions(graph: NodeGraph) -> list[Any]:
    """The environment, the nodes, and for lifecycle nodes the steps to active."""
    actions: list[Any] = [
        SetEnvironmentVariable(variable, value) for variable, value in graph.environment.items()
    ]
    managed: dict[str, Any] = {}
    for entry in graph.nodes:
        node = _node(entry, graph)
        actions.append(node)
        if entry.lifecycle:
            managed[entry.name] = node
    return actions + _steps_to_active(managed)


def _node(entry: NodeEntry, graph: NodeGraph) -> Any:
    to_log = graph.log_folder is not None and not entry.ends_run
    action = LifecycleNode if entry.lifecycle else Node
    return action(
        package=PACKAGE,
        executable=entry.executable,
        name=entry.name,
        namespace=graph.namespace,
        # Typed, or launch reads "1" and "a: b" as YAML.
        parameters=[
            {
                name: ParameterValue(value, value_type=type(value))
                for name, value in entry.parameters.items()
            }
        ],
        remappings=list(entry.remappings),
        output="log" if to_log else "screen",
        on_exit=OpaqueFunction(function=_end_launch, args=[entry.name]),
    )


def _end_launch(context: LaunchContext, name: str) -> list[Any]:
    """A process has ended: the others go too, unless they already do."""
    return [] if context.is_shutdown else [Shutdown(reason=f"{name} has ended")]


def _steps_to_active(managed: Mapping[str, Any]) -> list[Any]:
    """Configure all, then activate one after the other; a step that fails ends the launch.

    The order is what a recording needs: nothing is said before the recorder hears everybody.
    """
    nodes = list(managed.values())
    unconfigured = set(managed)

    def configured(context: LaunchContext, name: str) -> list[Any]:
        unconfigured.discard(name)
        return [] if unconfigured else [_change(nodes[0], Transition.TRANSITION_ACTIVATE)]

    actions: list[Any] = []
    for (name, node), following in zip(managed.items(), [*nodes[1:], None], strict=True):
        count = OpaqueFunction(function=configured, args=[name])
        actions += [
            _when(node, "configuring", "inactive", count),
            _when(node, "configuring", "unconfigured", _end(f"{name} could not be configured")),
            _when(node, "activating", "inactive", _end(f"{name} could not be activated")),
        ]
        if following is not None:
            activate = _change(following, Transition.TRANSITION_ACTIVATE)
            actions.append(_when(node, "activating", "active", activate))
    return actions + [_change(node, Transition.TRANSITION_CONFIGURE) for node in nodes]


def _when(node: Any, start: str, goal: str, action: Any) -> Any:
    return RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node, start_state=start, goal_state=goal, entities=[action]
        )
    )


def _change(node: Any, transition: int) -> Any:
    event = ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)
    return EmitEvent(event=event)


def _end(reason: str) -> Any:
    return EmitEvent(event=ShutdownEvent(reason=reason))


def _argument_text(default: Any) -> str:
    if default is None:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)

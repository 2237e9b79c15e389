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
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from par_ros.control.settings import constraint_of
from par_ros.graph_arguments import parse_arguments
from par_ros.node_graph import GRAPHS, NodeEntry, NodeGraph
from par_ros.process import ERROR_PREFIX, PARENT_VARIABLE, end_sentence

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
    """Arguments of the command line that launch would ignore without a warning. Nothing where this
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
    course = _Course({entry.name for entry in graph.nodes if entry.lifecycle})
    managed: dict[str, Any] = {}
    for entry in graph.nodes:
        node = _node(entry, graph, course)
        actions.append(node)
        if entry.lifecycle:
            managed[entry.name] = node
    return actions + _steps_to_active(managed, course)


class _Course:
    """What has become of a launch so far; its methods are what launch calls at each event.

    A failure is reported to launch's event loop, by which `ros2 launch` ends with code 1: the end
    of a process, whatever its code, is none to it.
    """

    def __init__(self, unconfigured: set[str]) -> None:
        self._unconfigured = unconfigured
        self._is_up = False
        self._is_ending = False

    def configured(self, context: LaunchContext, name: str, first: Any) -> list[Any]:
        """With the last one configured, `first` is activated."""
        self._unconfigured.discard(name)
        if self._is_up or self._unconfigured:
            return []
        return [_change(first, Transition.TRANSITION_ACTIVATE)]

    def activated(self, context: LaunchContext, following: Any) -> list[Any]:
        """`following` is activated next; after the last one all are up. Later steps are the
        responsibility of their caller: one that fails does not end the guard."""
        if self._is_up:
            return []
        self._is_up = following is None
        return [] if self._is_up else [_change(following, Transition.TRANSITION_ACTIVATE)]

    def step_failed(self, context: LaunchContext, sentence: str) -> list[Any]:
        """While coming up, that is the end."""
        return [] if self._is_up else self._fail(context, sentence)

    def exited(self, context: LaunchContext, entry: NodeEntry) -> list[Any]:
        """The others go too, unless they already do or go on without it."""
        if self._is_ending or context.is_shutdown:
            return []
        code = context.locals.event.returncode
        if entry.ends_run and code == 0:
            self._is_ending = True
            return [Shutdown(reason=f"{entry.name} has ended")]
        sentence = end_sentence(entry.name, code)
        if entry.is_optional:
            return [LogInfo(msg=f"{sentence}; the other processes continue")]
        if self._is_up and entry.others_go_on:
            _report(context, f"{sentence}; the other processes continue")
            return []
        return self._fail(context, sentence)

    def _fail(self, context: LaunchContext, sentence: str) -> list[Any]:
        if self._is_ending:
            return []
        self._is_ending = True
        _report(context, f"{sentence}, so the launch is ended")
        return [Shutdown(reason=sentence)]


def _report(context: LaunchContext, sentence: str) -> None:
    context.asyncio_loop.call_exception_handler({"message": f"{ERROR_PREFIX}{sentence}."})


def _node(entry: NodeEntry, graph: NodeGraph, course: _Course) -> Any:
    to_log = graph.log_folder is not None and not entry.is_looked_at
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
        on_exit=OpaqueFunction(function=course.exited, args=[entry]),
    )


def _steps_to_active(managed: Mapping[str, Any], course: _Course) -> list[Any]:
    """Configure all, then activate one after the other; a step that fails ends the launch.

    A recording needs this order: no message is sent before the recorder is connected to every
    node.
    """
    nodes = list(managed.values())
    actions: list[Any] = []
    for (name, node), following in zip(managed.items(), [*nodes[1:], None], strict=True):

        def failed(label: str, name: str = name) -> Any:
            return OpaqueFunction(
                function=course.step_failed, args=[f"{name} could not be {label}"]
            )

        count = OpaqueFunction(function=course.configured, args=[name, nodes[0]])
        next_step = OpaqueFunction(function=course.activated, args=[following])
        actions += [
            _when(node, "configuring", "inactive", count),
            _when(node, "configuring", "unconfigured", failed("configured")),
            _when(node, "activating", "inactive", failed("activated")),
            _when(node, "activating", "active", next_step),
        ]
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


def _argument_text(default: Any) -> str:
    if default is None:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)

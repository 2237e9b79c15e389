# SPDX-License-Identifier: Apache-2.0
"""launch/*.launch.py say what the node table says.

Where launch is not installed, small recording stand-ins of its classes take its place; where it is,
the same files are executed by the real launch too.
"""

import importlib.util
import itertools
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from par_ros.graph_arguments import parse_arguments
from par_ros.node_graph import GRAPHS, NodeGraph
from par_ros.process import PARENT_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
OWN_PACKAGES = (
    "ruckig", "torch", "diffusers", "einops", "safetensors", "huggingface_hub", "mani_skill",
    "sapien", "gymnasium", "pinocchio", "scipy", "mcap", "rosbags", "tqdm", "plotly", "rich",
)  # fmt: skip
FILES = {"sim": "sim.launch.py", "real_arm": "real_arm.launch.py"}


class Recorded:
    """An action, event or substitution that only remembers how it was made."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        self.positional = positional
        self.named = named


class Context(dict[str, str]):
    """What launch knows: the arguments' texts."""

    @property
    def launch_configurations(self) -> dict[str, str]:
        return self


class LaunchConfiguration(Recorded):
    def perform(self, context: Context) -> str:
        return context[self.positional[0]]


def stand_ins() -> dict[str, types.ModuleType]:
    """Modules with the names that the launch files import."""
    names = {
        "launch": ("LaunchContext", "LaunchDescription"),
        "launch.actions": (
            "DeclareLaunchArgument", "EmitEvent", "OpaqueFunction", "RegisterEventHandler",
            "LogInfo", "SetEnvironmentVariable", "Shutdown",
        ),
        "launch.events": (),
        "launch.substitutions": (),
        "launch_ros": (),
        "launch_ros.actions": ("LifecycleNode", "Node"),
        "launch_ros.event_handlers": ("OnStateTransition",),
        "launch_ros.events": (),
        "launch_ros.events.lifecycle": ("ChangeState",),
        "launch_ros.parameter_descriptions": ("ParameterValue",),
    }  # fmt: skip
    modules = {}
    for module_name, classes in names.items():
        module = types.ModuleType(module_name)
        for class_name in classes:
            setattr(module, class_name, type(class_name, (Recorded,), {}))
        modules[module_name] = module
    modules["launch.events"].matches_action = lambda action: action  # type: ignore[attr-defined]
    modules["launch.substitutions"].LaunchConfiguration = (  # type: ignore[attr-defined]
        LaunchConfiguration
    )
    return modules


@pytest.fixture
def recording_launch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, module in stand_ins().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "par_ros.launch_mapping", raising=False)
    yield
    sys.modules.pop("par_ros.launch_mapping", None)


def load(file_name: str) -> Any:
    path = ROOT / "launch" / file_name
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def performed(name: str, given: dict[str, str]) -> tuple[dict[str, str], list[Any]]:
    """(argument texts, actions) after the stand-in description was executed."""
    *declarations, opaque = load(FILES[name]).positional[0]
    context = Context({d.positional[0]: d.named["default_value"] for d in declarations} | given)
    return context, opaque.named["function"](context, *opaque.named["args"])


def graph_of(name: str, texts: dict[str, str]) -> NodeGraph:
    kind = GRAPHS[name]
    return kind.build(parse_arguments(kind.arguments_type, name, texts), "")


@pytest.mark.parametrize("name", FILES)
def test_nodes_are_the_tables(recording_launch: None, tmp_path: Path, name: str) -> None:
    given = {"checkpoint": str(tmp_path), "namespace": "left", "instruction": "Push."}
    context, actions = performed(name, given)
    graph = graph_of(name, context)
    kinds = {"Node": False, "LifecycleNode": True}
    nodes = [action for action in actions if type(action).__name__ in kinds]
    assert [node.named["name"] for node in nodes] == [entry.name for entry in graph.nodes]
    for node, entry in zip(nodes, graph.nodes, strict=True):
        assert kinds[type(node).__name__] is entry.lifecycle
        assert node.named["package"] == "par_ros"
        assert node.named["executable"] == entry.executable
        assert node.named["namespace"] == "left"
        assert tuple(node.named["remappings"]) == entry.remappings
        (values,) = node.named["parameters"]
        plain = {key: value.positional[0] for key, value in values.items()}
        expected = dict(entry.parameters)
        for changing in ("command", "report"):
            plain.pop(changing, None)
            expected.pop(changing, None)
        assert plain == expected
        for key, value in values.items():
            assert value.named["value_type"] is type(value.positional[0]), key


class Run:
    """A launch of `name` as far as it has come, without processes: events in, actions out."""

    def __init__(self, name: str, given: dict[str, str]) -> None:
        _, self.actions = performed(name, given)
        self.is_shutdown = False
        self.errors: list[str] = []
        self.locals = types.SimpleNamespace()
        self.asyncio_loop = types.SimpleNamespace(
            call_exception_handler=lambda context: self.errors.append(context["message"])
        )
        self._nodes = {a.named["name"]: a for a in self.actions if "on_exit" in a.named}
        self.managed = [
            name for name, a in self._nodes.items() if type(a).__name__ == "LifecycleNode"
        ]
        self._steps = {}
        for action in self.actions:
            if type(action).__name__ == "RegisterEventHandler":
                handler = action.positional[0].named
                key = handler["target_lifecycle_node"].named["name"]
                step = key, handler["start_state"], handler["goal_state"]
                self._steps[step] = handler["entities"][0]

    def exit(self, name: str, code: int) -> list[str]:
        """A process ends; the kinds of actions that follow."""
        self.locals.event = types.SimpleNamespace(returncode=code)
        return self._kinds(self._call(self._nodes[name].named["on_exit"]))

    def step(self, name: str, start: str, goal: str) -> list[tuple[str, int]]:
        """A lifecycle step is over; which are asked for then, or ("", 0) for the end."""
        return [
            state_change(action) if type(action).__name__ == "EmitEvent" else ("", 0)
            for action in self._call(self._steps[name, start, goal])
        ]

    def come_up(self) -> None:
        for name in self.managed:
            self.step(name, "configuring", "inactive")
        for name in self.managed:
            self.step(name, "activating", "active")

    def _call(self, opaque: Any) -> list[Any]:
        return list(opaque.named["function"](self, *opaque.named.get("args", ())))

    @staticmethod
    def _kinds(actions: list[Any]) -> list[str]:
        return [type(action).__name__ for action in actions]


def state_change(action: Any) -> tuple[str, int]:
    event = action.named["event"].named
    return event["lifecycle_node_matcher"].named["name"], event["transition_id"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("is_up", [False, True])
def test_a_process_that_ends_unasked_ends_the_launch_as_failed(
    recording_launch: None, tmp_path: Path, name: str, is_up: bool
) -> None:
    """Two that end together are one end. launch itself takes no notice of exit codes."""
    run = Run(name, {"checkpoint": str(tmp_path), "instruction": "Push."})
    if is_up:
        run.come_up()
    assert run.exit("safety_node", -9) == ["Shutdown"]
    assert run.exit("policy_node", 1) == []
    assert run.errors == [
        "error: safety_node ended unexpectedly (signal SIGKILL), so the launch is ended."
    ]


def test_the_end_of_the_episodes_is_a_good_end(recording_launch: None, tmp_path: Path) -> None:
    run = Run("sim", {"checkpoint": str(tmp_path)})
    run.come_up()
    assert run.exit("episode_node", 0) == ["Shutdown"]
    assert run.exit("maniskill_bridge_node", 0) == []
    assert run.errors == []
    failed = Run("sim", {"checkpoint": str(tmp_path)})
    failed.come_up()
    assert failed.exit("episode_node", 1) == ["Shutdown"]
    assert len(failed.errors) == 1


def test_what_ends_while_the_launch_ends_is_none_of_its_business(
    recording_launch: None, tmp_path: Path
) -> None:
    run = Run("sim", {"checkpoint": str(tmp_path)})
    run.is_shutdown = True
    assert run.exit("policy_node", -2) == []
    assert run.errors == []


def test_on_a_real_arm_the_guard_outlives_its_policy(
    recording_launch: None, tmp_path: Path
) -> None:
    """Its death, and every step that it refuses, once all are up; the launch has failed by it."""
    run = Run("real_arm", {"checkpoint": str(tmp_path), "instruction": "Push."})
    run.come_up()
    for step in (("activating", "inactive"), ("configuring", "unconfigured")):
        assert run.step("policy_node", *step) == []
    assert run.errors == []
    assert run.exit("policy_node", 1) == []
    assert run.errors == [
        "error: policy_node ended unexpectedly (exit code 1); the other processes continue."
    ]
    assert run.exit("safety_node", 1) == ["Shutdown"]


def test_the_end_of_the_live_view_ends_and_fails_nothing(
    recording_launch: None, tmp_path: Path
) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    run = Run("sim", {"checkpoint": str(tmp_path), "view": "true"})
    assert run.exit("viewer_node", 1) == ["LogInfo"]
    run.come_up()
    assert run.exit("viewer_node", -9) == ["LogInfo"]
    assert run.errors == []


@pytest.mark.parametrize("name", FILES)
def test_once_all_are_up_nothing_is_activated_unasked(
    recording_launch: None, tmp_path: Path, name: str
) -> None:
    """A guard that the operator activates again does not activate the policy."""
    run = Run(name, {"checkpoint": str(tmp_path), "instruction": "Push."})
    run.come_up()
    for node in run.managed:
        assert run.step(node, "configuring", "inactive") == []
        assert run.step(node, "activating", "active") == []


@pytest.mark.parametrize("name", FILES)
def test_all_are_configured_then_activated_in_order_and_failure_ends_the_launch(
    recording_launch: None, tmp_path: Path, name: str
) -> None:
    given = {"checkpoint": str(tmp_path), "record": "true", "instruction": "Push."}
    run = Run(name, given)
    names = run.managed
    assert names[0] == "recorder_node"
    assert len(names) == {"sim": 3, "real_arm": 4}[name]
    for node_name in names:
        for failed in (("configuring", "unconfigured"), ("activating", "inactive")):
            failing = Run(name, given)
            assert failing.step(node_name, *failed) == [("", 0)]
            assert node_name in failing.errors[0]
    at_once = [action for action in run.actions if type(action).__name__ == "EmitEvent"]
    assert [state_change(action) for action in at_once] == [(node, 1) for node in names]
    # Whoever is configured last.
    for node_name in reversed(names):
        expected = [(names[0], 3)] if node_name == names[0] else []
        assert run.step(node_name, "configuring", "inactive") == expected
    for before, after in itertools.pairwise(names):
        assert run.step(before, "activating", "active") == [(after, 3)]
    assert run.step(names[-1], "activating", "active") == []


@pytest.mark.parametrize("name", FILES)
def test_environment_is_set_before_any_node(
    recording_launch: None, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE", raising=False)
    given = {"checkpoint": str(tmp_path), "domain_id": "42", "instruction": "Push."}
    context, actions = performed(name, given)
    expected = {PARENT_VARIABLE: str(os.getpid()), **graph_of(name, context).environment}
    assert expected["ROS_DOMAIN_ID"] == "42"
    first = actions[: len(expected)]
    assert {action.positional[0]: action.positional[1] for action in first} == expected


def test_behind_a_prefix_the_launch_process_is_not_the_nodes_parent(
    recording_launch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE", raising=False)
    prefix = {"launch-prefix": "gdb -ex run --args"}
    given = {"checkpoint": str(tmp_path), "instruction": "Push.", **prefix}
    _, actions = performed("real_arm", given)
    names = [action.positional[0] for action in actions if len(action.positional) == 2]
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" in names
    assert PARENT_VARIABLE not in names


def test_wrong_argument_is_the_same_sentence(recording_launch: None) -> None:
    with pytest.raises(ValueError, match=r"^sim: task must be one of PushCube, "):
        performed("sim", {"task": "OpenDoor"})


def test_a_misspelt_argument_is_refused_and_a_parent_file_s_is_not(
    recording_launch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["robto:=slow.yaml", "dry_run:=false"]
    command = ["/opt/ros/jazzy/bin/ros2", "launch", "par_ros"]
    monkeypatch.setattr(sys, "argv", [*command, "real_arm.launch.py", *words])
    with pytest.raises(ValueError, match=r"^real_arm: 'robto' is not an argument; the arguments"):
        performed("real_arm", {"checkpoint": str(tmp_path)})
    monkeypatch.setattr(sys, "argv", [*command, "cell.launch.py", *words])
    performed("real_arm", {"checkpoint": str(tmp_path), "instruction": "Push."})


def test_launch_files_need_nothing_that_a_ros_installation_lacks() -> None:
    """`ros2 launch` of a ROS installation runs in the system's Python: it has ROS, numpy and YAML,
    and none of the packages that our nodes have in their own environment."""
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in NAMES:\n"
        "            raise ModuleNotFoundError(name)\n"
        f"NAMES = {OWN_PACKAGES!r}\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import par_ros.node_graph, par_ros.process\n"
        "print('imported')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "imported\n", done.stderr


@pytest.mark.launch
@pytest.mark.parametrize("name", FILES)
def test_real_launch_executes_the_files(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The folder launch/ of this repository is no module; the real one has actions.
    pytest.importorskip("launch.actions", reason="ROS 2's launch is not installed")
    pytest.importorskip("launch_ros.actions", reason="ROS 2's launch_ros is not installed")
    from launch import LaunchContext

    monkeypatch.delitem(sys.modules, "par_ros.launch_mapping", raising=False)
    description = load(FILES[name])
    context = LaunchContext()
    *declarations, opaque = description.entities
    for declaration in declarations:
        declaration.execute(context)
    given = {"checkpoint": str(tmp_path), "instruction": "Push."}
    context.launch_configurations.update(given)
    actions = opaque.execute(context)
    executables = [
        action.node_executable for action in actions if hasattr(action, "node_executable")
    ]
    graph = graph_of(name, given)
    assert executables == [entry.executable for entry in graph.nodes]

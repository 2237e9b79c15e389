# SPDX-License-Identifier: Apache-2.0
"""Parameters are declared once: type, default, range, choices, read-only; wrong values are refused
with a sentence, at start, later through ROS, and as command line text."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter

from par_ros import parameters
from par_ros.control.settings import constraint_of, parse_text, validate
from par_ros.guarded_arm import require_a_person_to_engage
from par_ros.parameters import (
    EpisodeNodeParameters,
    GripperAdapterNodeParameters,
    LoopbackArmParameters,
    ManiSkillBridgeParameters,
    PolicyNodeParameters,
    RealArmNodeParameters,
    RecorderNodeParameters,
    SafetyNodeParameters,
    ViewerNodeParameters,
    declare,
    guard_settings,
    read,
    read_yaml,
)

ALL = (
    PolicyNodeParameters,
    SafetyNodeParameters,
    ManiSkillBridgeParameters,
    LoopbackArmParameters,
    RealArmNodeParameters,
    GripperAdapterNodeParameters,
    EpisodeNodeParameters,
    RecorderNodeParameters,
    ViewerNodeParameters,
)


def field_of(kind: type[Any], name: str) -> "dataclasses.Field[Any]":
    return next(field for field in dataclasses.fields(kind) if field.name == name)


@pytest.mark.parametrize("kind", ALL)
def test_defaults_are_within_their_own_ranges(kind: type[Any]) -> None:
    validate(kind(), "node")
    for field in dataclasses.fields(kind):
        assert constraint_of(field).description


@pytest.mark.parametrize("kind", ALL)
def test_declare_gives_the_defaults_and_describes_them(ros: None, kind: type[Any]) -> None:
    node = Node("declares")
    assert declare(node, kind) == kind()
    for field in dataclasses.fields(kind):
        descriptor = node.describe_parameter(field.name)
        assert descriptor.description.startswith(constraint_of(field).description)
        assert descriptor.read_only == constraint_of(field).read_only


def test_what_is_set_later_is_read_again(ros: None) -> None:
    node = Node("reads")
    declare(node, PolicyNodeParameters)
    results = node.set_parameters([Parameter("policy_seed", value=7)])
    assert results[0].successful
    assert read(node, PolicyNodeParameters).policy_seed == 7


@pytest.mark.parametrize(("name", "value"), [("policy_seed", -1), ("mode", "lockstep")])
def test_later_values_outside_the_rules_are_refused(ros: None, name: str, value: Any) -> None:
    node = Node("refuses")
    declare(node, PolicyNodeParameters)
    result = node.set_parameters([Parameter(name, value=value)])[0]
    assert not result.successful
    assert name in result.reason
    assert read(node, PolicyNodeParameters) == PolicyNodeParameters()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (Parameter("num_steps", value=0), "num_steps must be a whole number from 1 to 1000"),
        (Parameter("num_steps", value="many"), "num_steps must be a whole number from 1 to 1000"),
        (Parameter("mode", value="soon"), "mode must be one of lockstep, realtime, got 'soon'"),
        (Parameter("max_skew_s", value=7.0), "max_skew_s must be a number from 0 to 1 s"),
        (Parameter("checkpoint", value=3), "checkpoint must be text"),
    ],
)
def test_wrong_start_values_are_one_sentence(ros: None, override: Parameter, sentence: str) -> None:
    node = Node("policy_node", parameter_overrides=[override])
    with pytest.raises(ValueError, match=f"^policy_node: {sentence}"):
        declare(node, PolicyNodeParameters)


def test_unset_is_none_and_not_a_number(ros: None) -> None:
    node = Node("unset")
    assert declare(node, PolicyNodeParameters).num_steps is None
    given = Node("given", parameter_overrides=[Parameter("num_steps", value=4)])
    assert declare(given, PolicyNodeParameters).num_steps == 4


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_steps", "4", 4),
        ("predict_images", "true", True),
        ("predict_images", "False", False),
        ("max_skew_s", "0.5", 0.5),
        ("max_skew_s", "1", 1.0),
        ("instruction", "Push: it, 1", "Push: it, 1"),
    ],
)
def test_command_line_text_becomes_a_typed_value(name: str, text: str, value: Any) -> None:
    parsed = parse_text("policy", field_of(PolicyNodeParameters, name), text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("num_steps", "4.5", "policy: num_steps must be a whole number, got '4.5'"),
        ("num_steps", "0", "policy: num_steps must be a whole number from 1 to 1000, got 0"),
        ("predict_images", "yes", "policy: predict_images must be true or false, got 'yes'"),
        ("max_skew_s", "nan", "policy: max_skew_s must be a number from 0 to 1 s, got nan"),
        ("mode", "x", "policy: mode must be one of lockstep, realtime, got 'x'"),
    ],
)
def test_wrong_command_line_text_is_one_sentence(name: str, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        parse_text("policy", field_of(PolicyNodeParameters, name), text)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file"),
        ("a: [1", "is not valid YAML"),
        ("- 1\n- 2\n", "must hold one mapping with names as keys, got list"),
        ("", "must hold one mapping with names as keys, got NoneType"),
        ("1: x\n", "must hold one mapping with names as keys, got dict"),
    ],
)
def test_bad_yaml_is_one_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "arm.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_yaml_never_makes_objects(tmp_path: Path) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ValueError, match="is not valid YAML"):
        read_yaml(path)


def test_every_node_parameter_class_is_tested_here() -> None:
    classes = {
        value
        for value in vars(parameters).values()
        if dataclasses.is_dataclass(value) and value.__module__ == parameters.__name__
    }
    assert classes == set(ALL)


@pytest.mark.parametrize("reference", ["controller_state", "topic", "none"])
def test_a_dry_run_tells_the_guard_and_expects_no_reference(reference: str) -> None:
    own = SafetyNodeParameters(dry_run=True, reference=reference)
    settings = guard_settings(own, use_sim_time=False)
    assert settings.dry_run
    assert not settings.expects_reference


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({}, True),
        ({"reference": "topic"}, False),
        ({"reference": "none"}, True),
        ({"reference": "none", "mode": "lockstep"}, False),
        ({"reference": "none", "dry_run": True}, False),
        ({"dry_run": True}, False),
        ({"mode": "lockstep"}, False),
    ],
)
def test_a_real_arm_is_engaged_by_a_person_only(changes: dict[str, Any], is_refused: bool) -> None:
    reason = ""
    try:
        require_a_person_to_engage(SafetyNodeParameters(auto_engage=True, **changes))
    except ValueError as error:
        reason = str(error)
    assert reason.startswith("safety_node: auto_engage is for simulated arms") == is_refused

# SPDX-License-Identifier: Apache-2.0
"""A box around the tool of a planar arm of two links of 1 m, checked by forward kinematics."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from par_ros.control.arm_spec import ArmSpec, WorkspaceBox
from par_ros.control.joint_trajectory import MotionState
from par_ros.control.safety_filter import Join, SafetyFilter
from par_ros.control.workspace import Workspace
from tests.control.arms import content, knots

JOINTS = ("j1", "j2")


def urdf(path: Path) -> str:
    """Two links of 1 m that turn about z, and a tool at the end."""
    links = "".join(f'<link name="{name}"/>' for name in ("base", "one", "two", "tool"))
    joints = "".join(
        f'<joint name="{name}" type="revolute"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="{x} 0 0"/><axis xyz="0 0 1"/>'
        '<limit lower="-3" upper="3" effort="1" velocity="1"/></joint>'
        for name, parent, child, x in (("j1", "base", "one", 0), ("j2", "one", "two", 1))
    )
    fixed = (
        '<joint name="end" type="fixed"><parent link="two"/><child link="tool"/>'
        '<origin xyz="1 0 0"/></joint>'
    )
    path.write_text(f'<robot name="planar">{links}{joints}{fixed}</robot>', encoding="utf-8")
    return str(path)


@pytest.fixture
def box(tmp_path: Path) -> WorkspaceBox:
    """The tool may go up to 0.3 m to each side."""
    return WorkspaceBox(
        urdf(tmp_path / "arm.urdf"), "tool", np.array([-2.0, -0.3, -1.0]), np.array([2.1, 0.3, 1.0])
    )


def planar(box: WorkspaceBox) -> ArmSpec:
    template = content("template")
    (joint,) = template["joints"].values()  # type: ignore[attr-defined]
    spec = ArmSpec.from_mapping("planar", {**template, "joints": dict.fromkeys(JOINTS, joint)})
    return dataclasses.replace(spec, workspace=box)


def test_forward_kinematics_of_the_planar_arm(box: WorkspaceBox) -> None:
    workspace = Workspace(box, JOINTS)
    tool = workspace.tool_positions(np.array([[0.0, 0.0], [np.pi / 2, 0.0], [0.0, np.pi / 2]]))
    np.testing.assert_allclose(tool, [[2, 0, 0], [0, 2, 0], [1, 1, 0]], atol=1e-12)


def test_a_chunk_that_leaves_the_box_is_refused_and_one_inside_passes(box: WorkspaceBox) -> None:
    """j1 turns by 0.1 rad: 0.2 m to the side; by 0.3 rad: 0.6 m."""
    guard = SafetyFilter(planar(box), num_actions=8, step_s=0.05)
    join = Join(MotionState.at_rest(np.zeros(2)))
    ramp = (np.arange(1, 9) / 8.0) ** 2
    for turn, outcome in ((0.1, "unchanged"), (0.3, "refused")):
        wanted = knots(np.zeros(2), 0.0)
        wanted[:, 0] = turn * ramp
        filtered = guard.apply(join, wanted, 0.04)
        assert filtered.outcome == outcome, filtered.reason
    assert "would leave the workspace box" in filtered.reason


def test_from_outside_the_way_back_is_open(box: WorkspaceBox) -> None:
    workspace = Workspace(box, JOINTS)
    assert workspace.why_outside(np.array([[0.3, 0.0], [0.2, 0.0], [0.1, 0.0]])) == ""
    assert workspace.why_outside(np.array([[0.3, 0.0], [0.4, 0.0]])) != ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"urdf": "/nowhere.urdf"}, "is not a file"),
        ({"tool_frame": "hand"}, "missing: hand"),
    ],
)
def test_a_wrong_box_is_named(box: WorkspaceBox, change: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        Workspace(dataclasses.replace(box, **change), JOINTS)  # type: ignore[arg-type]
    assert sentence in str(error.value)

# SPDX-License-Identifier: Apache-2.0
"""The capsules of config/arms/panda.yaml: what the shipped tasks do is not refused, a fold of the
arm into itself or into the table is. In 24 of the planner's demonstrations nothing but the fingers
came nearer to the table, or to another link, than 1.7 cm; the margin is 1 cm.
"""

import dataclasses
import importlib.util
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pinocchio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_ros.capsule_fit import fit_capsule, fit_urdf, points_by_link, section
from par_ros.control.arm_spec import ArmSpec
from par_ros.control.collision_check import CollisionCheck
from par_ros.control.joint_trajectory import FloatArray
from par_ros.fit_capsules import read_pieces
from tests.control.arms import FOLDER, content

SPEC = ArmSpec.from_mapping("panda", content("panda"), FOLDER)
EPISODES = Path(__file__).resolve().parents[1] / "simulation" / "shipped_episodes.json"
# Home and where the hand goes: forward, low, and to both sides.
READY = [0.0, 0.3927, 0.0, -1.9635, 0.0, 2.3562, 0.7854]


def check(**changes: object) -> CollisionCheck:
    assert SPEC.collision is not None
    geometry = dataclasses.replace(SPEC.collision, enabled=True, **changes)  # type: ignore[arg-type]
    return CollisionCheck(geometry, SPEC.arm_joint_names, SPEC.home)


CHECK = check()


def way(*poses: list[float]) -> FloatArray:
    """From pose to pose in a straight line, 0.4 s each, by milliseconds."""
    return np.concatenate([np.linspace(*pair, 400) for pair in pairwise(poses)])


def test_the_section_is_off_until_it_is_asked_for() -> None:
    assert SPEC.collision is not None
    assert not SPEC.collision.enabled
    assert CHECK.description == "on: 14 bodies, 47 pairs, margin 0.01 m"


@pytest.mark.parametrize("task", ["PushCube", "PickCube", "StackCube"])
def test_what_the_shipped_policy_does_is_not_refused(task: str) -> None:
    """To the ends of its chunks, from home."""
    ends = json.loads(EPISODES.read_text())[task]["chunk_ends"]
    assert not CHECK.why_not(way(READY, *(end[:7] for end in ends)))


@pytest.mark.long
@pytest.mark.sim
@pytest.mark.parametrize("task", ["PushCube", "PickCube", "StackCube"])
def test_what_the_planner_does_is_not_refused(task: str) -> None:
    """One demonstration of each task, chunk by chunk."""
    from par_model.simulation.demonstrations import NoiseSettings, record_demonstration
    from par_model.simulation.maniskill_env import ManiSkillArm

    with ManiSkillArm(task, image_size=16) as arm:
        done = record_demonstration(arm, 0, NoiseSettings(share=0.0), 0)
    targets = np.asarray(done.executed_actions[:, :7], np.float64)
    assert len(targets) > 40
    for begin in range(0, len(targets) - 1, 8):
        chunk = targets[begin : begin + 9]
        dense = [np.linspace(*pair, 50) for pair in pairwise(chunk)]
        assert not CHECK.why_not(np.concatenate(dense))


@pytest.mark.parametrize(
    ("pose", "bodies"),
    [
        # The elbow folds until the hand meets the upper arm.
        ([0.0, 0.3, 0.0, -3.05, 0.0, 0.6, 0.7854], "panda_link"),
        # The wrist folds the hand into the forearm.
        ([0.0, -0.6, 0.0, -1.9635, 0.0, 0.0, 0.7854], "panda_link5 and panda_hand"),
        # The arm leans forward until the hand is in the table.
        ([0.0, 1.5, 0.0, -1.0, 0.0, 2.3562, 0.7854], "panda_hand and table"),
    ],
)
def test_a_fold_into_itself_or_into_the_table_is_refused(pose: list[float], bodies: str) -> None:
    assert bodies in CHECK.why_not(way(READY, pose))


def maniskill_panda() -> Path:
    """Its URDF; importing the package takes seconds."""
    package = importlib.util.find_spec("mani_skill")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "assets/robots/panda/panda_v2.urdf"


@pytest.mark.sim
def test_panda_urdf_is_the_arm_of_the_simulator() -> None:
    """The hand is where ManiSkill's URDF has it, in ten poses."""
    theirs = pinocchio.buildModelFromUrdf(str(maniskill_panda()))
    ours = pinocchio.buildModelFromUrdf(str(FOLDER / "panda.urdf"))
    assert list(ours.names)[1:] == list(SPEC.arm_joint_names)
    for pose in np.random.default_rng(0).uniform(-1, 1, (10, 7)):
        places = []
        for model, positions in ((theirs, np.append(pose, [0, 0])), (ours, pose)):
            data = model.createData()
            pinocchio.framesForwardKinematics(model, data, positions)
            places.append(data.oMf[model.getFrameId("panda_hand_tcp")].homogeneous)
        np.testing.assert_allclose(*places, atol=1e-9)


@pytest.mark.sim
def test_the_capsules_hold_the_collision_meshes_of_the_simulator_s_panda() -> None:
    """Within a millimetre, which is the rounding; the fingers at both ends of their way, too."""
    points = points_by_link(maniskill_panda(), "")
    for finger, side in (("panda_leftfinger", 1.0), ("panda_rightfinger", -1.0)):
        closed = points.pop(finger) + np.array([0.0, 0.0, 0.0584 - 0.1034])
        for opened_m in (0.0, 0.04):
            _assert_held("panda_hand_tcp", closed + np.array([0.0, side * opened_m, 0.0]))
    for link, points_N3 in points.items():
        _assert_held(link, points_N3)


def _assert_held(link: str, points_N3: FloatArray) -> None:
    assert SPEC.collision is not None
    outside = np.full(len(points_N3), np.inf)
    for one in SPEC.collision.capsules:
        if one.link == link:
            axis = one.end_m - one.start_m
            share = np.clip((points_N3 - one.start_m) @ axis / max(axis @ axis, 1e-12), 0.0, 1.0)
            apart = np.linalg.norm(points_N3 - one.start_m - np.outer(share, axis), axis=1)
            outside = np.minimum(outside, apart - one.radius_m)
    assert outside.max() < 1e-3, (link, outside.max())


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_a_fitted_capsule_holds_all_points_and_is_small(seed: int) -> None:
    """Points on a capsule that lies anywhere: at most 15 % more volume is found."""
    rng = np.random.default_rng(seed)
    radius, length = rng.uniform(0.03, 0.1), rng.uniform(0.0, 0.4)
    normals = rng.normal(size=(400, 3))
    normals /= np.linalg.norm(normals, axis=1)[:, None]
    points = radius * normals + np.outer(np.sign(normals[:, 2]), [0, 0, length / 2])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    points = points @ turn.T + rng.normal(size=3)
    found = fit_capsule("link", points)
    axis = found.end_m - found.start_m
    share = np.clip((points - found.start_m) @ axis / max(axis @ axis, 1e-12), 0.0, 1.0)
    apart = np.linalg.norm(points - found.start_m - np.outer(share, axis), axis=1)
    assert apart.max() <= found.radius_m + 1e-9

    def volume(radius_m: float, length_m: float) -> float:
        return radius_m**2 * (length_m + 4 / 3 * radius_m)

    assert volume(found.radius_m, float(np.linalg.norm(axis))) < 1.15 * volume(radius, length)


def test_every_shape_of_a_urdf_is_held(tmp_path: Path) -> None:
    """A cylinder, a box and a sphere; what is printed reads as an arm file's section."""
    shapes = ('<cylinder radius="0.05" length="0.3"/>', '<box size="0.1 0.2 0.3"/>')
    shapes += ('<sphere radius="0.07"/>',)
    links = "".join(
        f'<link name="l{n}"><collision><origin xyz="0 0 0.1"/><geometry>{shape}</geometry>'
        "</collision></link>"
        for n, shape in enumerate(shapes)
    )
    joints = "".join(
        f'<joint name="j{n}" type="fixed"><parent link="l{n}"/><child link="l{n + 1}"/></joint>'
        for n in range(2)
    )
    urdf = tmp_path / "arm.urdf"
    urdf.write_text(f'<robot name="r">{links}{joints}</robot>')
    found = {one.link: one for one in fit_urdf(urdf, "", {})}
    assert set(found) == {"l0", "l1", "l2"}
    for link, points_N3 in points_by_link(urdf, "").items():
        one = found[link]
        axis = one.end_m - one.start_m
        share = np.clip((points_N3 - one.start_m) @ axis / max(axis @ axis, 1e-12), 0.0, 1.0)
        apart = np.linalg.norm(points_N3 - one.start_m - np.outer(share, axis), axis=1)
        assert apart.max() <= one.radius_m + 1e-9
    assert 0.07 <= found["l2"].radius_m < 0.073
    assert section((found["l2"],)).startswith("  capsules:\n    - {link: l2, start_m: [")


@pytest.mark.parametrize(
    ("urdf", "pieces", "sentence"),
    [("/nowhere.urdf", "", "'/nowhere.urdf' is not a file"), (None, "a=2", "pieces names a")],
)
def test_what_cannot_be_fitted_is_named(
    urdf: str | None, pieces: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "a.urdf").write_text('<robot name="r"><link name="l"/></robot>')
    with pytest.raises(ValueError, match=sentence):
        fit_urdf(Path(urdf or tmp_path / "a.urdf"), "", read_pieces(pieces))


@pytest.mark.parametrize("text", ["a", "a=x", "a=0", "a=11", "=2=3"])
def test_pieces_are_a_link_and_a_number(text: str) -> None:
    assert read_pieces("a=2, b=3") == {"a": 2, "b": 3}
    with pytest.raises(ValueError, match="must be LINK=NUMBER"):
        read_pieces(text)

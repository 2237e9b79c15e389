# SPDX-License-Identifier: Apache-2.0
"""Trajectories that bring links together or into a box are refused before they go out.

A planar arm of three links of 0.3 m that turn about y, 0.4 m above a table; capsules of 3 cm.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.collision_check import CollisionCheck
from par_ros.control.joint_trajectory import FloatArray
from tests.control.arms import content
from tests.control.guard_rig import TIMES, Rig, text

JOINTS = ("j1", "j2", "j3")
LINKS = ("one", "two", "three")
LINK_M, HEIGHT_M, RADIUS_M, MARGIN_M = 0.3, 0.4, 0.03, 0.01


def write_urdf(path: Path) -> str:
    """Base and three links along x with cylinders; the table's top is z = 0."""
    parents = ("base", *LINKS[:-1])
    shape = (
        f'<collision><origin xyz="{LINK_M / 2} 0 0" rpy="0 1.5708 0"/>'
        f'<geometry><cylinder radius="{RADIUS_M}" length="{LINK_M}"/></geometry></collision>'
    )
    links = '<link name="base"/>' + "".join(f'<link name="{n}">{shape}</link>' for n in LINKS)
    joints = "".join(
        f'<joint name="{name}" type="revolute"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="{0 if parent == "base" else LINK_M} 0 '
        f'{HEIGHT_M if parent == "base" else 0}"/><axis xyz="0 1 0"/>'
        '<limit lower="-3" upper="3" effort="1" velocity="1"/></joint>'
        for name, parent, child in zip(JOINTS, parents, LINKS, strict=True)
    )
    path.write_text(f'<robot name="planar">{links}{joints}</robot>', encoding="utf-8")
    return str(path)


def section(path: str, **changes: Any) -> dict[str, Any]:
    """The section `collision` of the planar arm's file."""
    capsules = [
        {"link": n, "start_m": [0, 0, 0], "end_m": [LINK_M, 0, 0], "radius_m": RADIUS_M}
        for n in LINKS
    ]
    table = {"min_corner_m": [-1.0, -1.0, -0.1], "max_corner_m": [1.0, 1.0, 0.0]}
    known = {"urdf": path, "margin_m": MARGIN_M, "capsules": capsules, "boxes": {"table": table}}
    return {**known, **changes}


def planar_content(path: str, **changes: Any) -> dict[str, Any]:
    """The planar arm's file."""
    template = content("template")
    (joint,) = template["joints"].values()  # type: ignore[attr-defined]
    entries = {"joints": dict.fromkeys(JOINTS, joint), "collision": section(path, **changes)}
    return {**template, **entries}


def planar(path: str, **changes: Any) -> ArmSpec:
    return ArmSpec.from_mapping("planar", planar_content(path, **changes))


@pytest.fixture(scope="module")
def urdf(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_urdf(tmp_path_factory.mktemp("arm") / "planar.urdf")


@pytest.fixture(scope="module")
def check(urdf: str) -> CollisionCheck:
    return check_of(planar(urdf))


def check_of(spec: ArmSpec) -> CollisionCheck:
    assert spec.collision is not None
    return CollisionCheck(spec.collision, spec.arm_joint_names, spec.home)


def gap_to_table(positions: FloatArray) -> float:
    """Of the planar arm, by hand: the lowest joint or tip, less the radius."""
    heights = HEIGHT_M - LINK_M * np.cumsum(np.sin(np.cumsum(positions)))
    return float(heights.min()) - RADIUS_M


def gap_of_links(positions: FloatArray) -> float:
    """Between the first and the third link, by sampling both lines."""
    turned = np.cumsum(positions)
    ahead = LINK_M * np.stack((np.cos(turned), -np.sin(turned)), axis=1)
    starts = np.concatenate((np.zeros((1, 2)), np.cumsum(ahead, axis=0)))
    share = np.linspace(0.0, 1.0, 61)[:, None]
    first, third = (starts[k] + share * ahead[k] for k in (0, 2))
    apart = np.linalg.norm(first[:, None] - third[None], axis=2)
    return float(apart.min()) - 2 * RADIUS_M


@given(st.lists(st.floats(-2.5, 2.5), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_distances_are_those_by_hand(check: CollisionCheck, angles: list[float]) -> None:
    positions = np.array(angles)
    distances = check.distances(positions)
    for expected in (gap_to_table(positions), gap_of_links(positions)):
        if expected > 0.0:
            assert np.abs(distances - expected).min() < 5e-3


@given(
    st.lists(st.floats(-1.2, 1.2), min_size=3, max_size=3),
    st.lists(st.floats(-2.5, 2.5), min_size=3, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_a_verified_motion_never_collides(
    check: CollisionCheck, start: list[float], way: list[float]
) -> None:
    """From rest to rest; looked at between what is verified."""
    start_J = np.array(start)
    if min(gap_to_table(start_J), gap_of_links(start_J)) < MARGIN_M:
        return

    def motion(num: int) -> FloatArray:
        share = np.linspace(0.0, 1.0, num)[:, None]
        return start_J + share**2 * (3 - 2 * share) * np.array(way)

    fine = motion(1_501)
    gap_m = min(map(gap_to_table, fine))
    reason = check.why_not(motion(1_001))
    if not reason:
        assert gap_m > 0.0
        assert min(map(gap_of_links, fine[::15])) > 0.0
    elif "table" in reason:
        assert gap_m < MARGIN_M


def test_a_motion_between_two_samples_is_seen(check: CollisionCheck) -> None:
    """The arm dips into the table and comes back within 1 % of the way."""
    dip = 0.9 * np.exp(-0.5 * ((np.linspace(-1, 1, 2001) / 0.004) ** 2))
    way = np.column_stack((dip, np.zeros(2001), np.zeros(2001)))
    assert gap_to_table(way[1000]) < 0.0
    assert "table" in check.why_not(way)


def test_the_way_out_of_the_margin_is_open_and_the_way_further_in_is_not(
    check: CollisionCheck,
) -> None:
    near = float(np.arcsin((HEIGHT_M - RADIUS_M - 0.5 * MARGIN_M) / (3 * LINK_M)))
    out, further = (near + np.linspace(0.0, turn, 100) for turn in (-0.2, 0.01))
    assert check.why_not(np.column_stack((out, np.zeros((100, 2))))) == ""
    assert "three and table" in check.why_not(np.column_stack((further, np.zeros((100, 2)))))


@pytest.mark.parametrize("gap_m", [MARGIN_M + 0.004, 0.7 * MARGIN_M, 0.1 * MARGIN_M])
def test_many_small_motions_come_no_nearer_than_one_large_one(
    check: CollisionCheck, gap_m: float
) -> None:
    """3 mm a motion at the tip: less than half the margin, the room between two looks."""
    turned = float(np.arcsin((HEIGHT_M - RADIUS_M - gap_m) / (3 * LINK_M)))
    for _ in range(20):
        way = turned + np.linspace(0.0, 0.0035, 400)
        if reason := check.why_not(np.column_stack((way, np.zeros((400, 2))))):
            break
        turned = float(way[-1])
    assert "three and table" in reason
    assert gap_to_table(np.array([turned, 0.0, 0.0])) > min(gap_m, MARGIN_M) - 1e-4


def test_a_motion_that_takes_too_long_to_verify_is_refused(
    check: CollisionCheck,
) -> None:
    """The tip stays 2 mm above the margin while the last link turns to and fro by 40 rad in all."""
    turned = float(np.arcsin((HEIGHT_M - RADIUS_M - MARGIN_M - 0.002) / (3 * LINK_M)))
    swing = -0.2 * (1.0 - np.cos(np.linspace(0.0, 200.0 * np.pi, 20_001)))
    way = np.column_stack((np.full(20_001, turned), np.zeros(20_001), swing))
    assert "for too long to be verified" in check.why_not(way)
    assert check.why_not(way[:2_001]) == ""


@pytest.mark.parametrize("kind", ["continuous", "prismatic"])
def test_a_joint_that_is_not_an_angle_with_limits_is_refused(tmp_path: Path, kind: str) -> None:
    """A continuous joint has two coordinates, its cosine and sine; a sliding one has metres."""
    path = Path(write_urdf(tmp_path / "planar.urdf"))
    path.write_text(path.read_text().replace('"j2" type="revolute"', f'"j2" type="{kind}"'))
    with pytest.raises(ValueError, match=r"revolute joints that the arm file names.*\['j2'\]"):
        check_of(planar(str(path)))


def test_the_urdf_s_own_shapes_serve_without_capsules(urdf: str) -> None:
    check = check_of(planar(urdf, capsules=[]))
    down = np.linspace(0.0, 0.6, 500)
    assert "table" in check.why_not(np.column_stack((down, np.zeros((500, 2)))))
    assert check.why_not(np.zeros((10, 3))) == ""


def pushed_down(spec: ArmSpec, num_chunks: int = 8) -> tuple[Rig, list[str]]:
    """Chunks that turn the first joint downwards at 0.3 rad/s; the rig, and why it held."""
    rig = Rig(spec=spec)
    rig.engaged()
    reasons = []
    target = 0.0
    for _ in range(num_chunks):
        steps = target + 0.3 * TIMES * (1.0 if target else TIMES / TIMES[-1])
        knots = np.column_stack((steps, np.zeros((8, 2)), np.full(8, 0.04)))
        answer = rig.chunk(knots)
        rig.wait(0.4)
        if rig.guard.holding:
            reasons.append(text(answer))
            break
        target = float(steps[-1])
    rig.wait(1.0)
    return rig, reasons


def test_chunks_into_the_table_are_stopped_before_it(urdf: str) -> None:
    """0.45 rad of the first joint touch it; without the section the arm goes through."""
    rig, reasons = pushed_down(planar(urdf))
    lowest_m = min(map(gap_to_table, rig.commands))
    assert MARGIN_M / 2 <= lowest_m < 0.1
    assert "three and table would be" in reasons[0]
    rig.assert_limits()
    off = dataclasses.replace(planar(urdf), collision=None)
    assert min(map(gap_to_table, pushed_down(off)[0].commands)) < 0.0


def test_the_guard_says_whether_it_looks(urdf: str) -> None:
    spec = planar(urdf)
    assert Rig(spec=spec).guard.collisions == "on: 4 bodies, 4 pairs, margin 0.01 m"
    off = Rig(spec=dataclasses.replace(spec, collision=None))
    assert off.guard.collisions == "off: the arm file has no section collision"


def test_with_free_space_the_guard_sends_the_same_bits(urdf: str) -> None:
    spec = planar(urdf)
    with_shapes, reasons = pushed_down(spec, 2)
    without, _ = pushed_down(dataclasses.replace(spec, collision=None), 2)
    assert not reasons
    assert len(with_shapes.sent) == len(without.sent) >= 2
    for one, other in zip(with_shapes.sent, without.sent, strict=True):
        assert one.arm is not None and other.arm is not None
        assert one.stamp_ns == other.stamp_ns
        np.testing.assert_array_equal(one.arm.times_s, other.arm.times_s)
        np.testing.assert_array_equal(one.arm.positions, other.arm.positions)
        np.testing.assert_array_equal(one.arm.accelerations, other.arm.accelerations)


def test_an_emergency_stop_is_never_refused(urdf: str) -> None:
    """In motion, and with a box put around where the stop would end."""
    rig = Rig(spec=planar(urdf))
    rig.engaged()
    rig.chunk(np.column_stack((0.3 * TIMES**2, np.zeros((8, 2)), np.full(8, 0.04))))
    rig.wait(0.3)
    check = rig.guard._authority._commander._check._collisions  # type: ignore[union-attr]
    assert check is not None
    check.why_not = lambda positions: "everything is in the way"  # type: ignore[method-assign]
    assert rig.call("e_stop").success
    rig.assert_rest()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"urdf": "/nowhere.urdf"}, "'/nowhere.urdf' is not a file"),
        ({"margin_m": 0.0}, "collision.margin_m must be positive, got 0.0"),
        ({"margin_m": "wide"}, "collision.margin_m must be a number, got wide"),
        ({"table": {}}, "and no other than"),
        ({"capsules": [{"link": "one"}]}, "collision.capsules must be with"),
        ({"capsules": 3}, "collision.capsules must be a list, got 3"),
        ({"boxes": {"table": {"min_corner_m": [0, 0, 0], "max_corner_m": [1, 1]}}}, "three number"),
        ({"boxes": {"t": {"min_corner_m": [0, 0, 1], "max_corner_m": [1, 1, 0]}}}, "min below max"),
        ({"ignore": ["one"]}, "pairs of names"),
        ({"ignore": [["one", "chair"]]}, "missing: ['chair']"),
        (
            {"boxes": {"wall": {"min_corner_m": [0.5, -1, 0], "max_corner_m": [1, 1, 1]}}},
            "at the arm's home three and wall are",
        ),
        (
            {"capsules": [{"link": "four", "start_m": [0, 0, 0], "end_m": [1, 0, 0],
                           "radius_m": 0.1}]},
            "missing: ['four']",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named(urdf: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        check_of(planar(urdf, **changes))
    assert sentence in str(error.value)

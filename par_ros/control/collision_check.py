# SPDX-License-Identifier: Apache-2.0
"""Whether a motion brings an arm's links together or into a box of the scene.

Distances are those of coal (Pan et al., "FCL: A General Purpose Library for Collision and Proximity
Queries", ICRA 2012, as maintained for pinocchio). Between two distances the motion advances by what
no point of the arm can exceed (conservative advancement: Mirtich, "Impulse-based Dynamic Simulation
of Rigid Body Systems", 1996), so the verdict holds for every moment, not only for samples.

Shapes: M moments, J arm joints, P pairs of bodies. Units: m, rad. Joints of the URDF that are not
the arm's (fingers) stay at their neutral position.
"""

from pathlib import Path

import numpy as np
import pinocchio

from par_ros.control.collision_geometry import CollisionGeometry, LinkCapsule, SceneBox
from par_ros.control.joint_trajectory import FloatArray

try:
    import coal as shapes
except ImportError:
    # coal's name before 3.0, in the wheels of pin 2.
    import hppfcl as shapes

# Shares of the margin by which a pair may come nearer between two looks: as much as leaves half of
# the margin, but at least the first.
_SLACK_SHARES = (0.1, 0.5)
# A bound of the time that one motion takes, as a number, so that the verdict is always the same.
_MOST_LOOKS = 200


class CollisionCheck:
    """The bodies of one arm and its scene; holds no state between calls."""

    def __init__(
        self, geometry: CollisionGeometry, arm_joint_names: tuple[str, ...], home: FloatArray
    ) -> None:
        """Raise ValueError for a missing file, joint or link, or a home [J] in collision."""
        self._margin_m = geometry.margin_m
        self._model = _read_model(geometry)
        missing = [name for name in arm_joint_names if not self._model.existJointName(name)]
        _require(not missing, geometry, "joints", missing)
        other = [name for name in arm_joint_names if not _turns(self._model, name)]
        _require(not other, geometry, "revolute joints", other)
        self._bodies = _bodies(geometry, self._model)
        joints = [self._model.getJointId(name) for name in arm_joint_names]
        self._pairs = _add_pairs(self._bodies, self._model, geometry, joints)
        self._data = self._model.createData()
        self._body_data = self._bodies.createData()
        # Taken out once: these objects are written to in place, and taking them out is half of the
        # time of a set of distances.
        self._results = list(self._body_data.distanceResults)
        self._columns = [self._model.joints[joint].idx_q for joint in joints]
        self._neutral: FloatArray = pinocchio.neutral(self._model)
        self._reaches_m = _reaches(self._model, self._bodies, joints)
        self.description = (
            f"on: {len(self._bodies.geometryObjects)} bodies, {len(self._pairs)} pairs, margin "
            f"{geometry.margin_m:g} m"
        )
        distances_m = self.distances(home)
        near = int(np.argmin(distances_m))
        if distances_m[near] < geometry.margin_m:
            raise ValueError(
                f"collision: at the arm's home {' and '.join(self._pairs[near])} are "
                f"{distances_m[near]:.3f} m apart, less than margin_m; check the shapes, or name "
                "the pair in collision.ignore."
            )

    def distances(self, positions: FloatArray) -> FloatArray:
        """Distance of each pair, float64 [P], negative inside each other; positions [J]."""
        configuration = self._neutral.copy()
        configuration[self._columns] = positions
        pinocchio.computeDistances(
            self._model, self._data, self._bodies, self._body_data, configuration
        )
        return np.array([result.min_distance for result in self._results])

    def why_not(self, positions: FloatArray) -> str:
        """Which bodies would meet on the way [M, J]; empty where none do.

        A pair that is nearer than the margin at the start may come apart, but not nearer: neither
        at the end, nor by more than the slack on the way. Chords between the M positions stand for
        the motion: give them some milliseconds apart at most.
        """
        steps_MP = np.abs(np.diff(positions, axis=0)) @ self._reaches_m
        travelled_MP = np.zeros((len(positions), len(self._pairs)))
        np.cumsum(steps_MP, axis=0, out=travelled_MP[1:])
        distances_m = self.distances(positions[0])
        lowest_m = np.minimum(distances_m, self._margin_m) - 1e-6
        least, most = (share * self._margin_m for share in _SLACK_SHARES)
        slack_m = np.clip(lowest_m - most, least, most)
        moment, num_looks = 0, 1
        while True:
            room_m = distances_m - lowest_m
            worst = int(np.argmin(room_m))
            one, other = self._pairs[worst]
            if room_m[worst] < 0.0:
                return f"{one} and {other} would be {distances_m[worst]:.3f} m apart"
            if moment == len(positions) - 1:
                return ""
            safe_m = travelled_MP[moment] + room_m + slack_m
            if (travelled_MP[moment + 1] > travelled_MP[moment] + room_m + most).any():
                return f"{one} and {other} would move too fast, {distances_m[worst]:.3f} m apart"
            if num_looks == _MOST_LOOKS:
                return f"{one} and {other} would stay near each other for too long to be verified"
            beyond = _first_beyond(travelled_MP, safe_m, moment + 1)
            moment, num_looks = max(beyond - 1, moment + 1), num_looks + 1
            distances_m = self.distances(positions[moment])


def _first_beyond(travelled_MP: FloatArray, safe_m: FloatArray, first: int) -> int:
    """The first moment from `first` on at which a pair has travelled further than is safe, M where
    none does; what was travelled never decreases."""
    last = len(travelled_MP)
    while first < last:
        middle = (first + last) // 2
        if (travelled_MP[middle] > safe_m).any():
            last = middle
        else:
            first = middle + 1
    return first


def _read_model(geometry: CollisionGeometry) -> pinocchio.Model:
    if not Path(geometry.urdf).is_file():
        raise ValueError(f"collision.urdf {geometry.urdf!r} is not a file; check the arm file.")
    return pinocchio.buildModelFromUrdf(geometry.urdf)


def _turns(model: pinocchio.Model, name: str) -> bool:
    """Whether the joint has one coordinate, its angle: a continuous one has two."""
    joint = model.joints[model.getJointId(name)]
    return bool(joint.nq == 1 and joint.shortname().startswith("JointModelR"))


def _bodies(geometry: CollisionGeometry, model: pinocchio.Model) -> pinocchio.GeometryModel:
    if geometry.capsules:
        bodies = pinocchio.GeometryModel()
        for capsule in geometry.capsules:
            _require(model.existFrame(capsule.link), geometry, "links", [capsule.link])
            bodies.addGeometryObject(_link_body(capsule, len(bodies.geometryObjects), model))
    else:
        bodies = _urdf_bodies(geometry, model)
    for box in geometry.boxes:
        bodies.addGeometryObject(_box_body(box))
    return bodies


def _urdf_bodies(geometry: CollisionGeometry, model: pinocchio.Model) -> pinocchio.GeometryModel:
    folder = geometry.mesh_folder or str(Path(geometry.urdf).parent)
    try:
        bodies = pinocchio.buildGeomFromUrdf(
            model, geometry.urdf, pinocchio.GeometryType.COLLISION, package_dirs=[folder]
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the collision shapes of {geometry.urdf} cannot be read ({error}); check "
            "collision.mesh_folder, or give capsules."
        ) from error
    _require(len(bodies.geometryObjects) > 0, geometry, "collision shapes", ["all"])
    for body in bodies.geometryObjects:
        if isinstance(body.geometry, shapes.BVHModelBase):
            body.geometry.buildConvexRepresentation(False)
            body.geometry = body.geometry.convex
    return bodies


def _link_body(
    capsule: LinkCapsule, number: int, model: pinocchio.Model
) -> pinocchio.GeometryObject:
    frame = model.getFrameId(capsule.link)
    in_joint = model.frames[frame].placement
    start_m, end_m = in_joint.act(capsule.start_m), in_joint.act(capsule.end_m)
    axis_m = end_m - start_m
    length_m = float(np.linalg.norm(axis_m))
    up = np.array([0.0, 0.0, 1.0])
    direction = axis_m / length_m if length_m > 0.0 else up
    turn = pinocchio.Quaternion.FromTwoVectors(up, direction).matrix()
    return pinocchio.GeometryObject(
        f"{capsule.link}_{number}",
        frame,
        model.frames[frame].parent,
        shapes.Capsule(capsule.radius_m, length_m),
        pinocchio.SE3(turn, (start_m + end_m) / 2),
    )


def _box_body(box: SceneBox) -> pinocchio.GeometryObject:
    size_m = box.max_corner_m - box.min_corner_m
    centre_m = (box.max_corner_m + box.min_corner_m) / 2
    return pinocchio.GeometryObject(
        box.name, 0, 0, shapes.Box(*size_m), pinocchio.SE3(np.eye(3), centre_m)
    )


def _add_pairs(
    bodies: pinocchio.GeometryModel,
    model: pinocchio.Model,
    geometry: CollisionGeometry,
    joints: list[int],
) -> list[tuple[str, str]]:
    """Adds the pairs that are looked at, and gives their names.

    Bodies that two of the arm's `joints` or more separate, and boxes with all that moves.
    """
    objects = list(bodies.geometryObjects)
    num_links = len(objects) - len(geometry.boxes)
    names = [model.frames[body.parentFrame].name for body in objects[:num_links]]
    names += [box.name for box in geometry.boxes]
    unknown = frozenset[str]().union(*geometry.ignored) - set(names)
    _require(not unknown, geometry, "links or boxes", sorted(unknown))
    moved_by = [_arm_joint(body.parentJoint, model, joints) for body in objects]
    before = [_arm_joint(model.parents[joint], model, joints) for joint in moved_by]
    pairs = []
    for one in range(num_links):
        for other in range(one + 1, len(objects)):
            if other < num_links:
                near = {moved_by[one], before[one]} & {moved_by[other], before[other]}
                is_joined = moved_by[one] in near or moved_by[other] in near
            else:
                is_joined = moved_by[one] == 0
            if not is_joined and frozenset((names[one], names[other])) not in geometry.ignored:
                bodies.addCollisionPair(pinocchio.CollisionPair(one, other))
                pairs.append((names[one], names[other]))
    _require(bool(pairs), geometry, "links", ["two that can meet"])
    return pairs


def _arm_joint(joint: int, model: pinocchio.Model, joints: list[int]) -> int:
    """The last of the arm's joints that moves `joint`; 0 (the base) where there is none."""
    while joint > 0 and joint not in joints:
        joint = model.parents[joint]
    return joint


def _reaches(
    model: pinocchio.Model, bodies: pinocchio.GeometryModel, joints: list[int]
) -> FloatArray:
    """How far a pair moves against each other at most, m for each rad of each joint, [J, P].

    A joint that moves both of a pair counts nothing; else the furthest point of the moved body.
    """
    of_body = []
    for body in bodies.geometryObjects:
        body.geometry.computeLocalAABB()
        extent_m = float(np.linalg.norm(body.placement.translation))
        extent_m += np.linalg.norm(body.geometry.aabb_center) + body.geometry.aabb_radius
        reaches_m = dict.fromkeys(joints, 0.0)
        joint = body.parentJoint
        while joint > 0:
            if joint in reaches_m:
                reaches_m[joint] = extent_m
            extent_m += np.linalg.norm(model.jointPlacements[joint].translation)
            joint = model.parents[joint]
        of_body.append(np.array(list(reaches_m.values())))
    ends = [(of_body[pair.first], of_body[pair.second]) for pair in bodies.collisionPairs]
    moves_both = [(one > 0.0) & (other > 0.0) for one, other in ends]
    return np.stack(
        [np.where(both, 0.0, np.maximum(*end)) for both, end in zip(moves_both, ends, strict=True)],
        axis=1,
    )


def _require(condition: bool, geometry: CollisionGeometry, what: str, missing: list[str]) -> None:
    if not condition:
        raise ValueError(
            f"{geometry.urdf} must hold the {what} that the arm file names, missing: {missing}; "
            "check the section collision."
        )

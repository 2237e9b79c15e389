# SPDX-License-Identifier: Apache-2.0
"""Capsules around the collision shapes of a URDF, for the section `collision` of an arm file.

Each link's shapes become points on their surface, closer together than a millimetre of sag; the
smallest capsule that holds them all is sought by Nelder and Mead's method from several axes (a
local minimum: what it finds always holds all points, but may not be the smallest). A long or bent
link is cut across its longest axis into pieces with a capsule each.

Shapes: N points. Units: m; capsules are in the frame of their link.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pinocchio
from scipy.optimize import minimize
from scipy.spatial import ConvexHull

from par_ros.control.collision_check import shapes
from par_ros.control.collision_geometry import LinkCapsule
from par_ros.control.joint_trajectory import FloatArray

# Between two points on a triangle of a mesh; a capsule is made larger by what lies between them.
_SPACING_M = 0.004
_CIRCLE = 24


def fit_urdf(urdf: Path, mesh_folder: str, pieces: Mapping[str, int]) -> tuple[LinkCapsule, ...]:
    """Capsules of every link with collision shapes, in the URDF's order.

    Args:
        mesh_folder: where names of mesh files begin; empty: the URDF's folder.
        pieces: how many capsules a link gets, where not one.

    Raises:
        ValueError: a URDF or mesh that cannot be read, or `pieces` of unknown links.
    """
    points = points_by_link(urdf, mesh_folder)
    if unknown := sorted(set(pieces) - set(points)):
        raise ValueError(
            f"pieces names {', '.join(unknown)}; the links with collision shapes are "
            f"{', '.join(points) or 'none'}."
        )
    return tuple(
        capsule
        for link, points_N3 in points.items()
        for piece in _cut(points_N3, pieces.get(link, 1))
        for capsule in (fit_capsule(link, piece),)
    )


def fit_capsule(link: str, points_N3: FloatArray) -> LinkCapsule:
    """A small capsule that holds all points, in whole millimetres."""
    # What holds the corners of the convex hull holds all.
    corners_N3 = points_N3[ConvexHull(points_N3).vertices]
    middle = corners_N3.mean(axis=0)
    centred = corners_N3 - middle
    axes = np.concatenate((np.eye(3), np.linalg.svd(centred, full_matrices=False)[2]))
    best: tuple[float, FloatArray] | None = None
    for axis in axes:
        found = minimize(
            lambda numbers: _volume(*_capsule(centred, numbers)),
            np.concatenate((axis, np.zeros(3))),
            method="Nelder-Mead",
            options={
                "maxiter": 600,
                "xatol": 1e-5,
                "fatol": 1e-9,
                "initial_simplex": _simplex(axis),
            },
        )
        if best is None or found.fun < best[0]:
            best = float(found.fun), found.x
    assert best is not None
    start, end, _ = _capsule(centred, best[1])
    start, end = (np.round(point + middle, 3) for point in (start, end))
    radius_m = float(_distances(points_N3, start, end).max())
    return LinkCapsule(link, start, end, float(np.ceil(radius_m * 1e3) / 1e3))


def section(capsules: tuple[LinkCapsule, ...]) -> str:
    """The entries `capsules` of an arm file, YAML."""

    def point(at_m: FloatArray) -> str:
        return "[" + ", ".join(f"{number + 0.0:.3f}" for number in at_m) + "]"

    lines = [
        f"    - {{link: {one.link}, start_m: {point(one.start_m)}, end_m: {point(one.end_m)}, "
        f"radius_m: {one.radius_m:.3f}}}"
        for one in capsules
    ]
    return "\n".join(["  capsules:", *lines]) + "\n"


def _simplex(axis: FloatArray) -> FloatArray:
    first = np.concatenate((axis, np.zeros(3)))
    return np.vstack((first, first + np.diag([0.3, 0.3, 0.3, 0.01, 0.01, 0.01])))


def _capsule(points_N3: FloatArray, numbers: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Both ends and the radius of the smallest capsule on a line, `numbers`: its direction [3] and
    a point of it [3]."""
    direction = numbers[:3] / max(float(np.linalg.norm(numbers[:3])), 1e-9)
    offsets = points_N3 - numbers[3:]
    along = offsets @ direction
    apart = np.linalg.norm(offsets - along[:, None] * direction, axis=1)
    radius = float(apart.max())
    reach = np.sqrt(np.maximum(radius**2 - apart**2, 0.0))
    low, high = float((along + reach).min()), float((along - reach).max())
    if low > high:
        low = high = (low + high) / 2
    return numbers[3:] + low * direction, numbers[3:] + high * direction, radius


def _volume(start: FloatArray, end: FloatArray, radius: float) -> float:
    length = float(np.linalg.norm(end - start))
    return float(np.pi * radius**2 * (length + 4 / 3 * radius))


def _distances(points_N3: FloatArray, start: FloatArray, end: FloatArray) -> FloatArray:
    """Of each point to the line between the ends, [N]."""
    axis = end - start
    square = float(axis @ axis)
    share = np.clip((points_N3 - start) @ axis / square, 0.0, 1.0) if square else np.zeros(1)
    return np.asarray(np.linalg.norm(points_N3 - start - np.outer(share, axis), axis=1))


def _cut(points_N3: FloatArray, number: int) -> list[FloatArray]:
    """The points in `number` pieces of equal length along their longest axis, which overlap by the
    spacing of the points."""
    centred = points_N3 - points_N3.mean(axis=0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    borders = np.linspace(along.min(), along.max(), number + 1)
    return [
        points_N3[(along >= low - _SPACING_M) & (along <= high + _SPACING_M)]
        for low, high in pairwise(borders)
    ]


def points_by_link(urdf: Path, mesh_folder: str) -> dict[str, FloatArray]:
    """Points on the collision shapes of each link, in its frame, [N, 3]. Raises as fit_urdf."""
    if not urdf.is_file():
        raise ValueError(f"{str(urdf)!r} is not a file; give the arm's URDF as urdf:=PATH.")
    try:
        model = pinocchio.buildModelFromUrdf(str(urdf))
        bodies = pinocchio.buildGeomFromUrdf(
            model, str(urdf), pinocchio.GeometryType.COLLISION,
            package_dirs=[mesh_folder or str(urdf.parent)],
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{urdf} cannot be read ({error}); check mesh_folder.") from error
    found: dict[str, list[FloatArray]] = {}
    for body in bodies.geometryObjects:
        frame = model.frames[body.parentFrame]
        in_link = frame.placement.inverse() * body.placement
        points_N3 = _surface(body.geometry) * body.meshScale
        found.setdefault(frame.name, []).append(
            points_N3 @ in_link.rotation.T + in_link.translation
        )
    return {link: np.concatenate(parts) for link, parts in found.items()}


def _surface(shape: Any) -> FloatArray:
    """Points on a shape, or around it: [N, 3]."""
    if isinstance(shape, shapes.BVHModelBase):
        corners = np.array(shape.vertices())
        triangles = [shape.tri_indices(index) for index in range(shape.num_tris)]
        return np.concatenate([_on_triangle(corners[[t[0], t[1], t[2]]]) for t in triangles])
    if isinstance(shape, shapes.Box):
        signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
        return np.asarray(signs * shape.halfSide)
    if isinstance(shape, shapes.Sphere):
        return _ring(shape.radius, 0.0, shape.radius)
    if isinstance(shape, shapes.Cylinder):
        return _ring(shape.radius, shape.halfLength, 0.0)
    if isinstance(shape, shapes.Capsule):
        return _ring(shape.radius, shape.halfLength, shape.radius)
    raise ValueError(f"collision shapes of the kind {type(shape).__name__} are not fitted.")


def _on_triangle(corners_33: FloatArray) -> FloatArray:
    """Points at most the spacing apart, the corners among them."""
    longest_m = np.linalg.norm(corners_33 - np.roll(corners_33, 1, axis=0), axis=1).max()
    number = max(int(np.ceil(longest_m / _SPACING_M)), 1)
    first, second = np.meshgrid(np.arange(number + 1), np.arange(number + 1))
    is_inside = first + second <= number
    shares = np.stack((first[is_inside], second[is_inside]), axis=1) / number
    edges = corners_33[1:] - corners_33[0]
    return np.asarray(corners_33[0] + shares @ edges)


def _ring(radius: float, half_length: float, cap: float) -> FloatArray:
    """Circles about z at both ends, and the tips of round caps."""
    turn = np.linspace(0.0, 2 * np.pi, _CIRCLE, endpoint=False)
    circle = radius / np.cos(np.pi / _CIRCLE) * np.stack((np.cos(turn), np.sin(turn)), axis=1)
    ends = [np.column_stack((circle, np.full(_CIRCLE, z))) for z in (-half_length, half_length)]
    tips = np.array([[0.0, 0.0, -half_length - cap], [0.0, 0.0, half_length + cap]])
    return np.concatenate((*ends, tips))

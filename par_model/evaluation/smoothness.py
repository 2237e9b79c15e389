# SPDX-License-Identifier: Apache-2.0
"""How smooth a joint motion is, and what it loses where one chunk takes over from another.

Shapes: T steps of the motion, J arm joints (without the gripper). Speeds are Euclidean norms over
the joints. A seam is the index of the first step that follows a new chunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from par_model.interface import FloatArray

# Below this an arm stands.
REST_SPEED_RAD_S = 0.01
# A dip in speed belongs to a seam within this time.
_SEAM_S = 0.2
# Spectral arc length: Balasubramanian et al. 2015, their values.
_SPECTRUM_MAX_HZ = 10.0
_SPECTRUM_THRESHOLD = 0.05
_SPECTRUM_PADDING = 4


@dataclass(frozen=True)
class SeamFigures:
    """One seam.

    Attributes:
        speed_lost: depth of the dip in speed at the seam over the smaller of the peaks beside it:
            0 for none, 1 for a stop.
        rest_s: how long the arm stands there between two motions.
        jerk_rad_s3: largest jerk of a joint over the three steps around the seam.
        jump_rad: how far the first new target lies from going on at constant velocity; largest
            joint.
    """

    speed_lost: float
    rest_s: float
    jerk_rad_s3: float
    jump_rad: float


@dataclass(frozen=True)
class MotionFigures:
    """One motion.

    Attributes:
        spectral_arc_length: of the speed (SPARC); 0 and below, smoother is closer to 0.
        log_dimensionless_jerk: 0 and below, smoother is closer to 0; a minimum-jerk move has -5.32.
        rest_s: time at rest between the first and the last motion.
        moving_s: time from the first to the last motion.
        seams: in order.
    """

    spectral_arc_length: float
    log_dimensionless_jerk: float
    rest_s: float
    moving_s: float
    seams: tuple[SeamFigures, ...]


def motion_figures(positions: FloatArray, step_s: float, seams: Sequence[int]) -> MotionFigures:
    """Figures of positions [T + 1, J], the first where the motion begins; seams lie in 0 .. T - 1.

    Seams before the first motion or behind the last one are left out: nothing is lost there.
    """
    velocities = np.diff(positions, axis=0) / step_s
    speeds: FloatArray = np.linalg.norm(velocities, axis=1)
    moving = np.flatnonzero(speeds >= REST_SPEED_RAD_S)
    if len(moving) == 0:
        return MotionFigures(0.0, 0.0, 0.0, 0.0, ())
    first, last = int(moving[0]), int(moving[-1])
    inner = [seam for seam in seams if first < seam <= last]
    bounds = [first, *inner, last + 1]
    figures = tuple(
        _seam_figures(positions, speeds, step_s, *bounds[index : index + 3])
        for index in range(len(inner))
    )
    within = slice(first, last + 1)
    return MotionFigures(
        spectral_arc_length=spectral_arc_length(speeds[within], step_s),
        log_dimensionless_jerk=log_dimensionless_jerk(velocities[within], step_s),
        rest_s=step_s * int((speeds[within] < REST_SPEED_RAD_S).sum()),
        moving_s=step_s * (last + 1 - first),
        seams=figures,
    )


def spectral_arc_length(speeds: FloatArray, step_s: float) -> float:
    """Length of the normalised spectrum of a speed [T], negative (Balasubramanian et al. 2015)."""
    length = 2 ** (int(np.ceil(np.log2(max(2, len(speeds))))) + _SPECTRUM_PADDING)
    spectrum = np.abs(np.fft.rfft(speeds, length))
    frequencies = np.fft.rfftfreq(length, step_s)
    if spectrum[0] == 0.0:
        return 0.0
    spectrum = spectrum / spectrum.max()
    above = np.flatnonzero((spectrum >= _SPECTRUM_THRESHOLD) & (frequencies <= _SPECTRUM_MAX_HZ))
    used = slice(0, int(above[-1]) + 1)
    spectrum, frequencies = spectrum[used], frequencies[used]
    if len(frequencies) < 2:
        return 0.0
    across = np.diff(frequencies) / (frequencies[-1] - frequencies[0])
    return -float(np.hypot(across, np.diff(spectrum)).sum())


def log_dimensionless_jerk(velocities: FloatArray, step_s: float) -> float:
    """-ln(duration^3 / peak speed^2 * integral of jerk^2) of velocities [T, J] (the same paper)."""
    if len(velocities) < 3:
        return 0.0
    jerks = np.diff(velocities, n=2, axis=0) / step_s**2
    peak = float(np.linalg.norm(velocities, axis=1).max())
    cost = (len(velocities) * step_s) ** 3 / peak**2 * float((jerks**2).sum()) * step_s
    return -float(np.log(cost)) if cost > 0.0 else 0.0


def _seam_figures(
    positions: FloatArray, speeds: FloatArray, step_s: float, before: int, seam: int, after: int
) -> SeamFigures:
    """`before` and `after` are the seams beside this one, or the ends of the motion."""
    reach = max(1, round(_SEAM_S / step_s))
    low, high = max(before, seam - reach), min(after, seam + reach)
    dip = low + int(np.argmin(speeds[low:high]))
    peak = min(float(speeds[before : dip + 1].max()), float(speeds[dip:after].max()))
    lost = 1.0 - float(speeds[dip]) / peak if peak >= REST_SPEED_RAD_S else 0.0
    return SeamFigures(
        speed_lost=lost,
        rest_s=step_s * _num_rest_steps(speeds, before, seam, after),
        jerk_rad_s3=_largest(np.diff(positions[max(0, seam - 2) : seam + 4], 3, axis=0))
        / step_s**3,
        jump_rad=_largest(np.diff(positions[seam - 1 : seam + 2], 2, axis=0)),
    )


def _num_rest_steps(speeds: FloatArray, before: int, seam: int, after: int) -> int:
    """Steps at rest without a gap up to the seam and from it on."""
    behind = speeds[before:seam][::-1] >= REST_SPEED_RAD_S
    ahead = speeds[seam:after] >= REST_SPEED_RAD_S
    return _first_true(behind) + _first_true(ahead)


def _first_true(values: npt.NDArray[np.bool_]) -> int:
    return int(np.argmax(values)) if values.any() else len(values)


def _largest(values: FloatArray) -> float:
    return float(np.abs(values).max()) if values.size else 0.0

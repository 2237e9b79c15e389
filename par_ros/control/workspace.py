# SPDX-License-Identifier: Apache-2.0
"""Where the tool is: forward kinematics of an arm's URDF (pinocchio), against a box.

Carpentier et al., "The Pinocchio C++ library", SII 2019. Joints of the URDF that are not the arm's
(fingers) stay at their neutral position.

Shapes: M moments, J arm joints.
"""

from pathlib import Path

import numpy as np
import pinocchio

from par_ros.control.arm_spec import WorkspaceBox
from par_ros.control.joint_trajectory import FloatArray


class Workspace:
    """The tool's position over the joints'."""

    def __init__(self, box: WorkspaceBox, arm_joint_names: tuple[str, ...]) -> None:
        """Raise ValueError if the URDF is missing, or lacks a joint or the tool's frame."""
        self._box = box
        if not Path(box.urdf).is_file():
            raise ValueError(f"workspace.urdf {box.urdf!r} is not a file; check the arm file.")
        self._model = pinocchio.buildModelFromUrdf(box.urdf)
        self._data = self._model.createData()
        missing = [name for name in arm_joint_names if not self._model.existJointName(name)]
        if missing or not self._model.existFrame(box.tool_frame):
            raise ValueError(
                f"{box.urdf} must hold the joints {list(arm_joint_names)} and the frame "
                f"{box.tool_frame!r}, missing: {missing or box.tool_frame}; check the arm file."
            )
        self._tool = self._model.getFrameId(box.tool_frame)
        self._columns = [
            self._model.joints[self._model.getJointId(name)].idx_q for name in arm_joint_names
        ]
        self._neutral: FloatArray = pinocchio.neutral(self._model)

    def tool_positions(self, positions: FloatArray) -> FloatArray:
        """Positions [M, 3] of the tool in the base frame, m, for joint positions [M, J]."""
        result = np.empty((len(positions), 3))
        for row, arm in enumerate(positions):
            configuration = self._neutral.copy()
            configuration[self._columns] = arm
            pinocchio.framesForwardKinematics(self._model, self._data, configuration)
            result[row] = self._data.oMf[self._tool].translation
        return result

    def why_outside(self, positions: FloatArray) -> str:
        """Where the tool leaves the box on the way [M, J]; empty where it does not.

        A way that starts outside may lead back: only what is further out than the start counts.
        """
        tool = self.tool_positions(positions)
        low, high = self._box.min_corner_m, self._box.max_corner_m
        outside = np.maximum(np.maximum(low - tool, tool - high), 0.0)
        worst = int(np.argmax(outside.max(axis=1)))
        if outside[worst].max() <= outside[0].max() + 1e-6:
            return ""
        return (
            f"the tool would leave the workspace box by {outside[worst].max():.3f} m at "
            f"{np.round(tool[worst], 3).tolist()} m"
        )

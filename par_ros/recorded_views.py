# SPDX-License-Identifier: Apache-2.0
"""The views of a recording: their names in the policy's order, and which of them are depth."""

from dataclasses import dataclass
from typing import Any

from par_model.depth_view import DepthView, depth_view_of
from par_model.interface import DEFAULT_VIEWS

_NAME, _RANGE = "name", "depth_range_m"


@dataclass(frozen=True)
class RecordedViews:
    """V views, the first one first.

    Attributes:
        depth: those that are depth, and the distances of their grey levels.
    """

    names: tuple[str, ...] = DEFAULT_VIEWS
    depth: tuple[DepthView, ...] = ()

    def to_json(self) -> list[dict[str, Any]]:
        """A list of names, each with its range where it is depth."""
        return [{_NAME: name, **self._range(name)} for name in self.names]

    @staticmethod
    def from_json(values: Any) -> "RecordedViews":
        """Raises ValueError for what to_json does not give."""
        try:
            names = tuple(str(value[_NAME]) for value in values)
            depth = tuple(
                DepthView(str(value[_NAME]), *map(float, value[_RANGE]))
                for value in values
                if _RANGE in value
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "the recording's setting views must be a list of names, each with depth_range_m "
                "where it is depth; record again."
            ) from error
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"the recording's setting views must have a name for each view, got {list(names)}; "
                "record again."
            )
        for view in depth:
            view.validate()
        return RecordedViews(names, depth)

    def data_set_settings(self) -> dict[str, Any]:
        """As a data set's settings describe its cameras (par_model/training/staged_episodes.py)."""
        first, *others = self.to_json()
        return {
            "camera": first[_NAME],
            **({f"camera_{_RANGE}": first[_RANGE]} if _RANGE in first else {}),
            **({"further_cameras": others} if others else {}),
        }

    def _range(self, name: str) -> dict[str, list[float]]:
        view = depth_view_of(self.depth, name)
        return {} if view is None else {_RANGE: [view.near_m, view.far_m]}

    def __str__(self) -> str:
        return ", ".join(str(depth_view_of(self.depth, name) or name) for name in self.names)

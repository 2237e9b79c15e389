# SPDX-License-Identifier: Apache-2.0
"""What a recording says of the graph that it was made in: all that a replay sets up again."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from par_ros.recorded_views import RecordedViews


@dataclass(frozen=True)
class RecordedGraph:
    """The settings in a recording.

    Attributes:
        guard, policy: parameters of the two nodes, those with another value than their default.
        policy_executable: which policy ran.
        checkpoint_sha256: of the checkpoint's manifest; empty without one.
        omp_num_threads: the variable OMP_NUM_THREADS; empty where it was not set.
        topics: name of each topic of topics.py in the graph; the recorder fills it in.
        views: of the policy; None in recordings of versions that did not write them down.
    """

    guard: Mapping[str, Any]
    policy: Mapping[str, Any]
    policy_executable: str
    checkpoint_sha256: str
    omp_num_threads: str
    topics: Mapping[str, str] = field(default_factory=dict)
    views: RecordedViews | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of the file's settings."""
        views = {} if self.views is None else {"views": self.views.to_json()}
        return {key: value for key, value in asdict(self).items() if key != "views"} | views

    @staticmethod
    def from_json(settings: Mapping[str, Any], topics: Iterable[str] = ()) -> "RecordedGraph":
        """Raises ValueError where what a replay needs is missing or is something else.

        topics: names of topics.py that the graph's names must be known of.
        """
        for name, kind in (("topics", dict), ("guard", dict), ("policy", dict)):
            if not isinstance(settings.get(name), kind):
                raise ValueError(f"the recording lacks the graph's setting {name}; record again.")
        if not isinstance(settings.get("policy_executable"), str):
            raise ValueError("the recording does not name the policy that ran; record again.")
        for topic in topics:
            if not isinstance(settings["topics"].get(topic), str):
                raise ValueError(f"the recording lacks the name of topic {topic}; record again.")
        texts = {
            name: text if isinstance(text := settings.get(name), str) else ""
            for name in ("checkpoint_sha256", "omp_num_threads")
        }
        return RecordedGraph(
            settings["guard"],
            settings["policy"],
            settings["policy_executable"],
            **texts,
            topics=settings["topics"],
            views=RecordedViews.from_json(settings["views"]) if "views" in settings else None,
        )

# SPDX-License-Identifier: Apache-2.0
"""policy_node and its latency budget over DDS: a policy of 8, 4, 2 or 1 sampling steps, 40 ms each,
that predicts a picture in 0.6 s; a chunk lasts 0.4 s."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from par_model.interface import ActionChunk, FloatArray, ImageArray
from par_ros import messages, topics
from par_ros.chunk_ledger import LEDGER_FIELDS
from par_ros.wire_records import Observed
from tests.ros.test_policy_node import (
    START_NS,
    Graph,
    RecordingPolicy,
    make_graph,  # noqa: F401 - a fixture
    now_ns,
    show_until,
    wait_for,
)

pytestmark = pytest.mark.ros
STEP_S = 0.04


class SteppedPolicy(RecordingPolicy):
    """Remembers in how many steps it was asked to answer."""

    sampling_steps = (8, 4, 2, 1)

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int | None] = []

    def act(self, committed: FloatArray | None = None, num_steps: int | None = None) -> ActionChunk:
        self.asked.append(num_steps)
        time.sleep(STEP_S * (num_steps or 8))
        return super().act()

    def predict_frame(self) -> ImageArray:
        time.sleep(0.6)
        return np.full((128, 128, 3), 7, np.uint8)


def observed_steps(graph: Graph) -> list[int | None]:
    """What goes into a recording."""
    found: list[int | None] = []

    def take(message: object) -> None:
        found.append(Observed.from_values(messages.read_status(message).values).num_steps)

    graph.world.create_subscription(
        topics.OBSERVED.message_type,
        topics.OBSERVED.name,
        take,
        topics.OBSERVED.reader_qos.profile(),
    )
    return found


@pytest.mark.parametrize(("budget_s", "most"), [(9.0, 8), (0.3, 4), (0.01, 1)])
def test_the_steps_give_way_to_the_budget(
    make_graph: Callable[..., Graph],  # noqa: F811
    budget_s: float,
    most: int,
) -> None:
    """0.3 s: 8 steps of 0.04 s do not fit, 4 or fewer do, as many as the machine's load allows."""
    policy = SteppedPolicy()
    graph = make_graph("realtime", policy=policy, num_warm_up=1, latency_budget=budget_s)
    steps = observed_steps(graph)
    graph.activate()
    policy.asked.clear()
    show_until(graph, lambda: bool(graph.world.chunks))
    (asked,) = policy.asked[:1]
    assert asked is not None
    assert asked <= most
    assert asked == most or budget_s == 0.3
    wait_for(lambda: steps)
    assert steps[0] == asked
    wait_for(lambda: with_chunks(graph))
    values = with_chunks(graph)[-1]
    assert values["answers_in_fewer_steps"] == ("0" if most == 8 else values["chunks"])


def with_chunks(graph: Graph) -> list[Mapping[str, str]]:
    """The statuses since the first chunk. A busy machine may have answered twice by then."""
    statuses = [status.values for status in graph.world.diagnostics]
    return [values for values in statuses if values.get("chunks", "0") != "0"]


def test_in_lockstep_nothing_gives_way(make_graph: Callable[..., Graph]) -> None:  # noqa: F811
    policy = SteppedPolicy()
    graph = make_graph(
        "lockstep", policy=policy, num_warm_up=1, latency_budget=0.01, predict_images=True
    )
    graph.activate()
    policy.asked.clear()
    graph.world.show(START_NS)
    graph.chunk(0)
    assert policy.asked == [None]
    wait_for(lambda: graph.world.predictions)


def test_a_picture_is_not_predicted_where_it_would_delay_the_next_answer(
    make_graph: Callable[..., Graph],  # noqa: F811
) -> None:
    """0.6 s do not fit into a chunk of 0.4 s."""
    graph = make_graph("realtime", policy=SteppedPolicy(), num_warm_up=1, predict_images=True)
    graph.activate()

    def skipped() -> bool:
        graph.world.show(now_ns(graph))
        return any(
            int(status.values.get("pictures_not_predicted", "0")) >= 1
            for status in graph.world.diagnostics
        )

    wait_for(skipped)
    assert graph.world.predictions == []


@pytest.mark.parametrize(("factor", "num_rows"), [(1.0, 1), (0.5, 0)])
def test_the_ledger_has_times_only_where_both_clocks_run_alike(
    make_graph: Callable[..., Graph],  # noqa: F811
    factor: float,
    num_rows: int,
) -> None:
    graph = make_graph("realtime", real_time_factor=factor)
    graph.activate()
    show_until(graph, lambda: bool(graph.world.chunks))
    graph.world.diagnostics.clear()
    graph.world.execute(-1)

    def words() -> list[str]:
        statuses = list(graph.world.diagnostics)
        return [word for status in statuses for word in status.values["new_ledger_ms"].split()]

    # Two at least: the first one may be from before the report.
    wait_for(lambda: len(graph.world.diagnostics) > 1 and len(words()) >= num_rows)
    assert len(words()) == num_rows * len(LEDGER_FIELDS)

# SPDX-License-Identifier: Apache-2.0
"""policy_node and surprise over DDS: the real node, a scripted policy, the guard's two services.

Thresholds: 0.5 and 1.0. The first observation of a context has no surprise.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from par_model.misfit import Misfit
from par_model.surprise import FILE_NAME, SurpriseCalibration, SurpriseThresholds
from par_model.weights_hash import weights_hash
from par_ros import messages, topics
from par_ros.wire_records import Surprise
from tests.ros.test_policy_node import (
    CHUNK_NS,
    INSTRUCTION,
    PATIENT,
    START_NS,
    STEP_NS,
    TIMEOUT_S,
    Graph,
    RecordingPolicy,
    make_graph,  # noqa: F401
    now_ns,
    show_until,
    wait_for,
)

pytestmark = pytest.mark.ros

MakeGraph = Callable[..., Graph]


class Foretelling(RecordingPolicy):
    """Finds each observation but the first as unlikely as it is told to."""

    surprise = 0.1
    num_foretold = 0

    def foretell(self) -> None:
        self.num_foretold += 1

    def misfit(self) -> Misfit | None:
        is_first = self.observations[-1].executed_actions is None
        return None if is_first else Misfit(np.full(64, self.surprise, np.float32), None, 0.0, 0.0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    (tmp_path / "manifest.json").write_text(json.dumps({"format_version": 1, "sha256": {}}))
    limits = {INSTRUCTION: SurpriseThresholds(0.5, 1.0, 30.0, 40)}
    SurpriseCalibration(weights_hash(tmp_path), None, limits, {}).write(tmp_path / FILE_NAME)
    return str(tmp_path)


@pytest.fixture
def make(make_graph: MakeGraph, checkpoint: str) -> Callable[..., Graph]:  # noqa: F811
    def graph(mode: str, **parameters: object) -> Graph:
        made = make_graph(mode, policy=Foretelling(), checkpoint=checkpoint, **parameters)
        made.calls = []  # type: ignore[attr-defined]
        made.found = []  # type: ignore[attr-defined]
        made.says_yes = True  # type: ignore[attr-defined]
        made.may_answer = threading.Event()  # type: ignore[attr-defined]
        made.may_answer.set()  # type: ignore[attr-defined]
        for entry in (topics.DISENGAGE, topics.ENGAGE):

            def answer(
                request: Trigger.Request, response: Trigger.Response, name: str = entry.name
            ) -> Trigger.Response:
                made.calls.append(name)  # type: ignore[attr-defined]
                made.may_answer.wait(TIMEOUT_S)  # type: ignore[attr-defined]
                response.success = made.says_yes  # type: ignore[attr-defined]
                return response

            made.world.create_service(Trigger, entry.client_name, answer)
        made.world.create_subscription(
            topics.SURPRISE.message_type,
            topics.SURPRISE.name,
            lambda m: made.found.append(messages.read_status(m)),  # type: ignore[attr-defined]
            topics.SURPRISE.reader_qos.profile(),
        )
        made.activate()
        return made

    return graph


def told(graph: Graph, key: str) -> str | None:
    """What the newest status says."""
    statuses = graph.world.diagnostics[-1:]
    return statuses[0].values.get(key) if statuses else None


def answered(graph: Graph, index: int, start_ns: int = START_NS) -> None:
    """Show what chunk `index` answers and execute it."""
    stamp_ns = start_ns + index * CHUNK_NS
    if index == 0:
        graph.world.show(stamp_ns)
    assert graph.chunk(index)[0] == stamp_ns
    graph.world.execute(index)
    for step in range(1, 9):
        graph.world.show(stamp_ns + step * STEP_NS)


def test_it_is_published_counted_and_acts_above_the_second_threshold(make: MakeGraph) -> None:
    """In lockstep the chunk is sent all the same: the guard, disengaged before, holds it."""
    graph = make("lockstep", surprise="stop")
    for index, surprise in enumerate((9.9, 0.1, 0.7, 1.3, 0.2)):
        graph.policy.surprise = surprise
        answered(graph, index)
    wait_for(lambda: len(graph.found) >= 4)
    read = [Surprise.from_values(status.values) for status in graph.found[:4]]
    assert [round(one.surprise, 5) for one in read] == [0.1, 0.7, 1.3, 0.2]
    assert read[0].stamp_ns == START_NS + CHUNK_NS
    assert (read[0].first, read[0].second) == (0.5, 1.0)
    assert graph.found[2].level == messages.WARN
    assert "expected (the picture is another): its" in graph.found[2].message
    assert "surprise is 1.300, the second threshold is 1.000" in graph.found[2].message
    assert graph.calls == ["disengage"]
    wait_for(lambda: told(graph, "surprise_stops") == "1")
    assert told(graph, "surprise_warnings") == "1"
    # A sixth chunk may answer the last picture meanwhile.
    wait_for(lambda: graph.policy.num_foretold >= 5)


def show_a_surprise(graph: Graph) -> None:
    """In real time: one chunk is followed, the picture after it stops the arm."""
    graph.policy.surprise = 2.0
    start_ns = now_ns(graph)
    graph.world.show(start_ns)
    graph.chunk(0)
    graph.world.execute(0)
    wait_for(lambda: now_ns(graph) >= start_ns + CHUNK_NS)
    graph.world.show(start_ns + CHUNK_NS)
    wait_for(lambda: graph.calls == ["disengage"])


def test_in_realtime_no_chunk_follows_a_stop(make: MakeGraph) -> None:
    graph = make("realtime", surprise="stop", **PATIENT)
    show_a_surprise(graph)
    wait_for(lambda: told(graph, "refused_surprise") == "1")
    assert graph.stays_quiet()
    graph.world.show(now_ns(graph))
    graph.chunk(1)
    assert graph.policy.observations[-1].executed_actions is None


def test_no_chunk_is_sent_until_the_guard_has_disengaged(make: MakeGraph) -> None:
    """The first observation of the next context is not judged, and must not move the arm."""
    graph = make("realtime", surprise="stop", **PATIENT)
    graph.policy.surprise, graph.says_yes = 2.0, False
    start_ns = now_ns(graph)
    graph.world.show(start_ns)
    graph.chunk(0)
    graph.world.execute(0)
    wait_for(lambda: now_ns(graph) >= start_ns + CHUNK_NS)
    for num_refused in (1, 2):
        # The first is taken at the end of the chunk: a later one may begin another context.
        graph.world.show(start_ns + CHUNK_NS if num_refused == 1 else now_ns(graph))
        wait_for(lambda expected=num_refused: told(graph, "refused_surprise") == str(expected))
    graph.says_yes = True
    graph.world.show(now_ns(graph))
    wait_for(lambda: told(graph, "refused_surprise") == "3")
    assert graph.calls == ["disengage"] * 3
    graph.world.show(now_ns(graph))
    graph.chunk(1)


def test_an_error_that_is_no_number_stops(make: MakeGraph) -> None:
    graph = make("lockstep", surprise="stop")
    for index, surprise in enumerate((0.1, float("nan"), 0.1)):
        graph.policy.surprise = surprise
        answered(graph, index)
    wait_for(lambda: told(graph, "surprise_stops") == "1")
    assert graph.calls == ["disengage"]


def test_auto_resumes_when_the_world_is_as_expected_again(make: MakeGraph) -> None:
    graph = make("lockstep", surprise="stop", surprise_resume="auto", use_sim_time=True)
    for index, surprise in enumerate((0.1, 2.0, 2.0, 0.1, 0.1)):
        graph.policy.surprise = surprise
        answered(graph, index)
    wait_for(lambda: len(graph.found) >= 4)
    assert graph.calls == ["disengage", "disengage", "engage"]


def test_report_never_acts(make: MakeGraph) -> None:
    graph = make("lockstep", surprise="report")
    graph.policy.surprise = 2.0
    for index in range(3):
        answered(graph, index)
    wait_for(lambda: len(graph.found) >= 2)
    assert graph.calls == []


def test_off_computes_nothing(make: MakeGraph) -> None:
    graph = make("lockstep")
    for name in ("misfit", "foretell"):
        setattr(graph.policy, name, lambda: pytest.fail("it was asked"))
    for index in range(3):
        answered(graph, index)
    assert graph.found == graph.calls == []


@pytest.mark.parametrize(
    ("parameters", "policy", "sentence"),
    [
        ({"surprise_resume": "auto"}, Foretelling, "exists in simulated time only"),
        ({}, RecordingPolicy, "does not foretell its observations; set surprise:=off"),
        ({"checkpoint": "/nowhere"}, Foretelling, "surprise.json is missing"),
    ],
)
def test_what_cannot_be_watched_is_refused_while_configuring(
    make_graph: MakeGraph,  # noqa: F811
    checkpoint: str,
    capfd: pytest.CaptureFixture[str],
    parameters: dict[str, str],
    policy: type[RecordingPolicy],
    sentence: str,
) -> None:
    asked = {"checkpoint": checkpoint, "surprise": "stop"} | parameters
    graph = make_graph("lockstep", policy=policy(), **asked)
    assert graph.node.trigger_configure().name == "FAILURE"
    assert sentence in capfd.readouterr().err


def test_an_instruction_without_thresholds_is_refused_when_it_is_set(
    make: MakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = make("lockstep", surprise="report")
    monkeypatch.setattr(type(graph.policy.spec), "require_instruction", lambda spec, text: None)
    (result,) = graph.node.set_parameters([Parameter("instruction", value="Sing.")])
    assert "no surprise thresholds of instruction 'Sing.'" in result.reason


@pytest.mark.parametrize("ends", ["reset", "deactivate"])
def test_a_stop_does_not_outlive_its_episode(make: MakeGraph, ends: str) -> None:
    """The guard has not answered yet when the next episode begins, which has its own seed and
    whose arm is not stopped."""
    graph = make("realtime", surprise="stop", **PATIENT)
    graph.may_answer.clear()
    show_a_surprise(graph)
    num_resets = len(graph.policy.resets)
    if ends == "reset":
        graph.world.reset.call_async(Trigger.Request())
    else:
        assert graph.node.trigger_deactivate().name == "SUCCESS"
        assert graph.node.trigger_activate().name == "SUCCESS"
    wait_for(lambda: len(graph.policy.resets) > num_resets)
    graph.may_answer.set()
    # Best effort may lose one on a busy machine.
    show_until(graph, lambda: len(graph.world.chunks) > 1)
    assert graph.calls == ["disengage"]
    assert graph.policy.resets[num_resets:] == [(INSTRUCTION, 0)]
    wait_for(lambda: int(told(graph, "chunks") or 0) >= 2)
    assert told(graph, "refused_surprise") is None

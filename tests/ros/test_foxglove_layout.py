# SPDX-License-Identifier: Apache-2.0
"""Each message path of the Foxglove layout exists in a recording's schemas, and gives values.

Foxglove itself is not run. A path is a topic, then fields, [i] or [:], and {key=="text"}.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mcap.reader import make_reader
from rclpy.serialization import deserialize_message

from par_ros.chunk_ledger import ChunkLedger
from par_ros.foxglove_layout import layout_text, main
from par_ros.parameters import read_arm_spec
from par_ros.policy_report import PolicyReport
from par_ros.recording import RecordedMessage, read_recording
from par_ros.resources import resource
from par_ros.topics import POLICY, TOPICS
from par_ros.wire_records import EpisodeState, GuardState
from tests.ros.processes import finish, start_module, wait_for
from tests.ros.test_recording import TIMEOUT_S

FILE = "config/foxglove/panda.json"
# studio's plotableRosTypes
PLOTTED = re.compile(r"(bool|u?int(8|16|32|64)|float(32|64)|string|.*/(Time|Duration))$")
STEP = re.compile(r'\.(\w+)|\[(:|\d+)\]|\{(\w+)=="([^"]*)"\}')
TYPES = {topic.type_name: topic.message_type for topic in TOPICS}
KEYS = {
    "/guard_state": set(GuardState.__dataclass_fields__),
    "/episode_state": set(EpisodeState.__dataclass_fields__),
    "/diagnostics": set(PolicyReport(ChunkLedger()).status(POLICY, "eager", is_active=True).values),
}


def committed_layout() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(resource(FILE).read_text(encoding="utf-8"))
    return content


def message_paths() -> list[str]:
    """Of all curves and states, without the numbers that stand for lines."""
    panels = committed_layout()["configById"].values()
    series = [row["value"] for panel in panels for row in panel.get("paths", ())]
    return [path for path in series if path.startswith("/")]


def topics_of_pictures() -> list[str]:
    panels = committed_layout()["configById"].values()
    modes = [panel["imageMode"] for panel in panels if "imageMode" in panel]
    return [topic for mode in modes for topic in mode.values()]


def parsed(path: str) -> tuple[str, list[tuple[str, str, str, str]]]:
    """The topic, and (field, index, key, text) of each step, one of them set."""
    topic = re.match(r"[\w/]+", path)
    assert topic is not None
    rest = path[topic.end() :]
    assert "".join(match.group(0) for match in STEP.finditer(rest)) == rest, path
    return topic.group(0), STEP.findall(rest)


def fields_of(schema: str, root: str) -> Mapping[str, Mapping[str, str]]:
    """Type -> field -> its type, from the text of an MCAP schema ("ros2msg")."""
    first, *others = re.split(r"\n=+\n", schema)
    texts = {root: first}
    for part in others:
        head, _, text = part.partition("\n")
        texts[head.removeprefix("MSG: ").replace("/", "/msg/")] = text
    return {name: dict(_fields(text, name.split("/")[0])) for name, text in texts.items()}


def _fields(text: str, package: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) >= 2 and "=" not in words[1]:
            kind, bracket, size = words[0].partition("[")
            if kind[0].isupper():
                kind = f"{package}/{kind}"
            yield words[1], kind.replace("/", "/msg/") + bracket + size


def kind_at(path: str, schemas: Mapping[str, tuple[str, str]]) -> str:
    """Type at the end of the path, by the schemas alone (topic -> type, definition)."""
    topic, steps = parsed(path)
    kind, text = schemas[topic]
    types = fields_of(text, kind)
    for field, index, key, _ in steps:
        if field:
            kind = types[kind][field]
        elif index:
            assert kind.endswith("]"), path
            kind = kind.partition("[")[0]
        else:
            assert types[kind][key] == "string", path
    return kind


def values_at(path: str, message: Any) -> list[Any]:
    _, steps = parsed(path)
    found = [message]
    for field, index, key, text in steps:
        if field:
            found = [getattr(one, field) for one in found]
        elif index == ":":
            found = [one for many in found for one in many]
        elif index:
            found = [many[int(index)] for many in found if len(many) > int(index)]
        else:
            found = [one for one in found if getattr(one, key) == text]
    return found


@pytest.fixture(scope="module")
def recording(own_domain: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arm, guard and fixed chunks, recorded and closed."""
    path = tmp_path_factory.mktemp("layout") / "light.mcap"
    domain = os.environ["ROS_DOMAIN_ID"]
    process = start_module("tests.ros.light_graph", domain, "", str(path))
    try:
        wait_for(lambda: has_executed(path) or process.poll() is not None, TIMEOUT_S, "chunks")
        assert process.poll() is None, process.communicate()[1]
        process.terminate()
        finish(process, TIMEOUT_S)
    finally:
        process.kill()
    return path


def has_executed(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    return {"/executed_actions", "/diagnostics"} <= {
        message.topic for message in read_recording(path).messages
    }


def schemas_of(path: Path) -> dict[str, tuple[str, str]]:
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    schemas = {key: (one.name, one.data.decode()) for key, one in summary.schemas.items()}
    return {channel.topic: schemas[channel.schema_id] for channel in summary.channels.values()}


def test_the_layout_is_what_its_command_writes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["panda"]) == 0
    assert capsys.readouterr().out == resource(FILE).read_text(encoding="utf-8")
    assert main(["nobody"]) == 1
    assert "arm 'nobody' is unknown" in capsys.readouterr().err


@pytest.mark.parametrize("arm", ["panda", "fr3", "ur5e"])
def test_each_panel_stands_once_and_each_joint_has_its_limits(arm: str) -> None:
    spec = read_arm_spec(arm)
    content = json.loads(layout_text(spec))
    placed = re.findall(r'"(?:first|second|layout)": "(\w+![\w]+)"', json.dumps(content))
    assert sorted(placed) == sorted(content["configById"])
    for number, (least, greatest) in enumerate(
        zip(spec.limits.min_position, spec.limits.max_position, strict=True)
    ):
        for panel in (f"Plot!time{number}", f"Plot!chunk{number}"):
            lines = [row["value"] for row in content["configById"][panel]["paths"]]
            assert [float(line) for line in lines if not line.startswith("/")] == pytest.approx(
                [least, greatest], rel=1e-5
            )


@pytest.mark.ros
def test_every_path_is_in_the_schemas_of_a_recording(recording: Path) -> None:
    schemas = schemas_of(recording)
    assert set(topics_of_pictures()) <= set(schemas)
    assert len(message_paths()) == 8 * 5 + 4 + 6
    for path in message_paths():
        assert PLOTTED.match(kind_at(path, schemas)), path
    with pytest.raises(KeyError):
        kind_at("/joint_states.positions[0]", schemas)


@pytest.mark.ros
def test_every_path_gives_values(recording: Path) -> None:
    """Those of nodes that this graph does not have, by the keys that these nodes write."""
    by_topic: dict[str, list[RecordedMessage]] = {}
    for message in read_recording(recording).messages:
        by_topic.setdefault(message.topic, []).append(message)
    for path in message_paths():
        topic, steps = parsed(path)
        *_, (_, _, key, text), _ = steps if len(steps) > 2 else [("", "", "", "")] * 2
        if key:
            assert text in KEYS[topic], path
        if topic == "/episode_state" or f'"{POLICY}"' in path:
            continue
        found = [
            value
            for message in by_topic[topic]
            for value in values_at(
                path, deserialize_message(message.data, TYPES[message.type_name])
            )
        ]
        assert found, path

# SPDX-License-Identifier: Apache-2.0
"""The table of topics and services is consistent with itself, with REP-2003 and with the docs."""

from pathlib import Path

import pytest
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from par_ros import topics
from par_ros.topics import SERVICES, TOPICS, Topic, markdown_table, sensor_qos

ROOT = Path(__file__).resolve().parents[2]


def test_names_are_unique_and_complete() -> None:
    names = [topic.name for topic in TOPICS]
    assert len(set(names)) == len(names)
    declared = {value for value in vars(topics).values() if isinstance(value, Topic)}
    assert declared == set(TOPICS)


def test_only_the_clock_and_diagnostics_are_absolute() -> None:
    assert {t.name for t in TOPICS if t.name.startswith("/")} == {"/clock", "/diagnostics"}


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_reader_can_hear_its_writer(topic: Topic) -> None:
    """DDS offers and requests: a reliable or latched reader needs a writer that is so too."""
    assert topic.writer_qos.reliable or not topic.reader_qos.reliable
    assert topic.writer_qos.transient_local or not topic.reader_qos.transient_local
    assert topic.writers
    assert topic.readers


def test_only_the_guard_commands_the_arm() -> None:
    for topic in (topics.JOINT_TRAJECTORY, topics.GRIPPER_TRAJECTORY, topics.EXECUTED_ACTIONS):
        assert topic.writers == (topics.GUARD,)


def test_sensor_data_is_best_effort_unless_physics_waits() -> None:
    loose = sensor_qos(topics.IMAGE, reliable=False)
    strict = sensor_qos(topics.IMAGE, reliable=True)
    assert loose.reliability == ReliabilityPolicy.BEST_EFFORT
    assert strict.reliability == ReliabilityPolicy.RELIABLE
    assert strict.durability == DurabilityPolicy.VOLATILE


def test_e_stop_of_every_publisher_is_heard() -> None:
    assert not topics.E_STOP.reader_qos.reliable
    assert not topics.E_STOP.reader_qos.transient_local
    assert topics.E_STOP_STATE.writer_qos.transient_local


def test_type_names() -> None:
    assert topics.IMAGE.type_name == "sensor_msgs/msg/Image"
    assert topics.ENGAGE.type_name == "std_srvs/srv/Trigger"
    assert topics.ENGAGE.client_name == "safety_node/engage"
    assert len({service.client_name for service in SERVICES}) == len(SERVICES)


def test_the_reference_has_this_table() -> None:
    page = ROOT / "docs" / "reference" / "topics.md"
    assert markdown_table() in page.read_text(encoding="utf-8")

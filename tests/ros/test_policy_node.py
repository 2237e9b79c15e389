# SPDX-License-Identifier: Apache-2.0
"""policy_node over DDS with the real node and a scripted policy: 8 actions of 0.05 s, so a chunk
lasts 0.4 s; pictures come every 0.05 s of made-up time, each with its joint states.

Which picture is answered when, and with which past: tests/control/test_policy_turn.py."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory as JointTrajectoryMessage

from par_model.checkpoint import save_checkpoint
from par_model.config import FrameCodecConfig
from par_model.interface import (
    ActionChunk,
    FloatArray,
    ImageArray,
    Observation,
    Policy,
    PolicySpec,
)
from par_model.load_policy import load_policy
from par_ros import messages, topics
from par_ros.control.joint_trajectory import JointTrajectory
from par_ros.fixed_chunk_node import FixedChunkPolicy
from par_ros.policy_node import PolicyNode
from par_ros.wire_records import Observed
from tests.model.fixtures import INSTRUCTIONS, random_checkpoint_parts

pytestmark = pytest.mark.ros

STEP_NS = 50_000_000
CHUNK_NS = 8 * STEP_NS
START_NS = 1_000_000_000
INSTRUCTION = FixedChunkPolicy().spec.instructions[0]
JOINTS = FixedChunkPolicy().spec.joint_names
TIMEOUT_S = 60.0
# Nothing is expected to come; long enough for what is sent on this machine to arrive.
QUIET_S = 0.5
# In real time: a picture that is shown once is answered however late a busy machine looks at it.
PATIENT = {"max_camera_silence_s": 60.0, "max_image_age_s": 10.0}


class RecordingPolicy(FixedChunkPolicy):
    """Remembers what it was shown; can be held up, and can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.observations: list[Observation] = []
        self.resets: list[tuple[str, int]] = []
        self.may_act = threading.Event()
        self.may_act.set()
        self.error: Exception | None = None
        self.num_failed = 0

    def reset(self, instruction: str, seed: int) -> None:
        super().reset(instruction, seed)
        self.resets.append((instruction, seed))

    def observe(self, observation: Observation) -> None:
        if self.error is not None:
            self.num_failed += 1
            raise self.error
        super().observe(observation)
        self.observations.append(observation)

    def act(self, committed: FloatArray | None = None) -> ActionChunk:
        assert self.may_act.wait(TIMEOUT_S)
        return super().act()

    def predict_frame(self) -> ImageArray:
        return np.full((128, 128, 3), 7, np.uint8)

    def attention_picture(self) -> ImageArray:
        return self.observations[-1].image // 2


class World(Node):
    """Camera, joint states and guard, as far as policy_node can see."""

    def __init__(self, *, has_camera: bool, has_arm: bool) -> None:
        super().__init__("world")
        if has_camera:
            self.pictures = self.create_publisher(Image, topics.IMAGE.name, _reliable())
        if has_arm:
            self.joints = self.create_publisher(JointState, topics.JOINT_STATES.name, _reliable())
            self.executed = self.create_publisher(
                JointTrajectoryMessage, topics.EXECUTED_ACTIONS.name, _reliable()
            )
        self.chunks: list[tuple[int, JointTrajectory]] = []
        self.predictions: list[int] = []
        self.attention: list[tuple[int, ImageArray]] = []
        self.diagnostics: list[messages.Status] = []
        for topic, callback in (
            (topics.ACTION_CHUNK, self._on_chunk),
            (topics.PREDICTED_IMAGE, lambda m: self.predictions.append(messages.stamp_ns(m))),
            (topics.ATTENTION_IMAGE, self._on_attention),
            (topics.DIAGNOSTICS, lambda m: self.diagnostics.extend(messages.read_diagnostics(m))),
        ):
            self.create_subscription(
                topic.message_type, topic.name, callback, topic.reader_qos.profile()
            )
        self.reset = self.create_client(Trigger, topics.RESET_POLICY.client_name)
        self._noise = np.random.default_rng(0)

    def _on_chunk(self, message: JointTrajectoryMessage) -> None:
        self.chunks.append((messages.stamp_ns(message), messages.read_joint_trajectory(message)))

    def _on_attention(self, message: Image) -> None:
        self.attention.append((messages.stamp_ns(message), messages.image_to_rgb(message)))

    def show(self, stamp_ns: int, position: float = 0.5) -> None:
        """One picture and the joint states of its moment."""
        self.show_joints(stamp_ns, position)
        self.show_picture(stamp_ns)

    def show_picture(self, stamp_ns: int, encoding: str = "rgb8") -> None:
        self.send_picture(
            self._noise.integers(80, 100, (128, 128, 3), np.uint8), stamp_ns, encoding
        )

    def send_picture(self, picture: ImageArray, stamp_ns: int, encoding: str = "rgb8") -> None:
        self.pictures.publish(messages.array_to_image(picture, encoding, stamp_ns, "camera"))

    def show_joints(self, stamp_ns: int, position: float = 0.5) -> None:
        positions = np.full(len(JOINTS), position)
        self.joints.publish(
            messages.joint_state_message(JOINTS, positions, np.zeros(len(JOINTS)), stamp_ns)
        )

    def execute(self, index: int, offset: float = 0.0) -> None:
        """The guard's answer to chunk `index`: sent as asked plus `offset`."""
        stamp_ns, asked = self.chunks[index]
        sent = JointTrajectory(asked.joint_names, asked.times_s, asked.positions)
        sent.positions[:] += offset
        self.executed.publish(messages.joint_trajectory_message(sent, stamp_ns))


class Graph:
    """policy_node and its world, spinning in this process."""

    def __init__(
        self,
        mode: str,
        policy: RecordingPolicy | None = None,
        *,
        has_camera: bool = True,
        has_arm: bool = True,
        remappings: Sequence[tuple[str, str]] = (),
        **parameters: object,
    ) -> None:
        self.policy = policy or RecordingPolicy()
        overrides = {"mode": mode, "instruction": INSTRUCTION, "num_warm_up": 0} | parameters
        self.node = _node_with(self.policy, overrides, remappings)
        self.world = World(has_camera=has_camera, has_arm=has_arm)
        self._executor = MultiThreadedExecutor(num_threads=3)
        self._executor.add_node(self.node)
        self._executor.add_node(self.world)
        self._thread = ThreadPoolExecutor(1)
        self.spinning = self._thread.submit(self._executor.spin)

    def activate(self) -> None:
        assert self.node.trigger_configure().name == "SUCCESS"
        wait_for(lambda: self.world.pictures.get_subscription_count() == 1)
        wait_for(lambda: self.world.joints.get_subscription_count() == 1)
        wait_for(lambda: self.world.executed.get_subscription_count() == 1)
        wait_for(lambda: self.world.count_publishers(topics.ACTION_CHUNK.name) == 1)
        assert self.node.trigger_activate().name == "SUCCESS"

    def chunk(self, index: int) -> tuple[int, JointTrajectory]:
        wait_for(lambda: len(self.world.chunks) > index)
        return self.world.chunks[index]

    def stays_quiet(self) -> bool:
        count = len(self.world.chunks)
        time.sleep(QUIET_S)
        return len(self.world.chunks) == count

    def stop(self) -> None:
        self.policy.may_act.set()
        self._executor.shutdown()
        self._thread.shutdown()
        self.node.destroy_node()
        self.world.destroy_node()


def _reliable() -> QoSProfile:
    return topics.Qos(reliable=True, depth=20).profile()


def _node_with(
    policy: RecordingPolicy, overrides: dict[str, object], remappings: Sequence[tuple[str, str]]
) -> PolicyNode:
    arguments = ["--ros-args"]
    for name, value in overrides.items():
        text = str(value).lower() if isinstance(value, bool) else value
        arguments += ["-p", f'{name}:="{value}"' if isinstance(value, str) else f"{name}:={text}"]
    for name, target in remappings:
        arguments += ["-r", f"{name}:={target}"]
    rclpy.shutdown()
    rclpy.init(args=arguments)
    return PolicyNode(lambda _: policy)


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, "nothing came"
        time.sleep(0.005)


@pytest.fixture
def make_graph(ros: None) -> Iterator[Callable[..., Graph]]:
    graphs = []

    def make(mode: str, **parameters: object) -> Graph:
        graphs.append(Graph(mode, **parameters))
        return graphs[-1]

    yield make
    for graph in graphs:
        graph.stop()


def test_an_episode_in_lockstep(make_graph: Callable[..., Graph]) -> None:
    """Three chunks; each answers the first picture after the one before has ended."""
    graph = make_graph("lockstep")
    graph.activate()
    stamp_ns = START_NS
    for index in range(3):
        if index == 0:
            graph.world.show(stamp_ns)
        answered_ns, chunk = graph.chunk(index)
        assert answered_ns == stamp_ns
        assert chunk.joint_names == JOINTS
        np.testing.assert_allclose(chunk.times_s, 0.05 * np.arange(1, 9))
        graph.world.execute(index, offset=0.01)
        for step in range(1, 9):
            graph.world.show(stamp_ns + step * STEP_NS, position=0.5 + step)
        stamp_ns += CHUNK_NS
    graph.chunk(3)
    shown = graph.policy.observations
    assert [round(o.stamp_s * 1e9) for o in shown] == [START_NS + k * CHUNK_NS for k in range(4)]
    assert shown[0].executed_actions is None
    for index in range(1, 4):
        assert shown[index].measured_joint_positions[0] == 8.5
        sent = graph.world.chunks[index - 1][1].positions
        np.testing.assert_array_equal(shown[index].executed_actions, sent)


def test_inactive_means_silent_and_activate_starts_an_episode(
    make_graph: Callable[..., Graph],
) -> None:
    graph = make_graph("lockstep")
    graph.activate()
    graph.world.show(START_NS)
    graph.chunk(0)
    graph.node.trigger_deactivate()
    graph.world.show(START_NS + CHUNK_NS)
    assert graph.stays_quiet()
    graph.node.set_parameters([Parameter("policy_seed", value=5)])
    graph.node.trigger_activate()
    assert graph.policy.resets[-1] == (INSTRUCTION, 5)
    graph.world.show(START_NS + 3 * CHUNK_NS)
    assert graph.chunk(1)[0] == START_NS + 3 * CHUNK_NS
    assert graph.policy.observations[-1].executed_actions is None


def test_reset_drops_the_chunk_that_is_being_computed(make_graph: Callable[..., Graph]) -> None:
    graph = make_graph("lockstep")
    graph.activate()
    graph.policy.may_act.clear()
    graph.world.show(START_NS)
    wait_for(lambda: graph.policy.observations)
    episode = graph.node._turn.episode
    answer = graph.world.reset.call_async(Trigger.Request())
    wait_for(lambda: graph.node._turn.episode > episode)
    assert not answer.done()
    graph.policy.may_act.set()
    wait_for(answer.done)
    assert answer.result().success
    assert graph.stays_quiet()
    assert not graph.world.chunks
    graph.world.show(START_NS + STEP_NS)
    assert graph.chunk(0)[0] == START_NS + STEP_NS


def test_an_unknown_instruction_is_refused_when_it_is_set(
    make_graph: Callable[..., Graph],
) -> None:
    """Accepted, it would fail the next activation, and with it the run."""
    graph = make_graph("lockstep")
    graph.activate()
    changed = [Parameter("instruction", value="Open the door.")]
    (result,) = graph.node.set_parameters(changed)
    assert not result.successful
    assert "'Open the door.' is unknown to this policy; it knows: " in result.reason
    answer = graph.world.reset.call_async(Trigger.Request())
    wait_for(answer.done)
    assert answer.result().success
    assert graph.policy.resets[-1][0] == INSTRUCTION


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("predict_images", "cannot predict pictures"),
        ("attention_images", "cannot show what it looks at"),
    ],
)
def test_pictures_that_a_policy_cannot_draw_are_refused_when_they_are_asked_for(
    make_graph: Callable[..., Graph], name: str, sentence: str
) -> None:
    class Blind(RecordingPolicy):
        predict_frame = attention_picture = None  # type: ignore[assignment]

    graph = make_graph("lockstep", policy=Blind())
    graph.activate()
    (result,) = graph.node.set_parameters([Parameter(name, value=True)])
    assert not result.successful
    assert sentence in result.reason


def test_in_lockstep_a_refused_picture_ends_the_process(make_graph: Callable[..., Graph]) -> None:
    graph = make_graph("lockstep")
    graph.activate()
    graph.world.show_joints(START_NS)
    graph.world.show_picture(START_NS, encoding="8UC3")
    error = graph.spinning.exception(TIMEOUT_S)
    assert isinstance(error, ValueError)
    assert "does not name the order of its colours" in str(error)


def now_ns(graph: Graph) -> int:
    return graph.node.get_clock().now().nanoseconds


def test_realtime_refusal_is_reported_and_survived(make_graph: Callable[..., Graph]) -> None:
    graph = make_graph("realtime", **PATIENT)
    graph.activate()
    graph.policy.error = ValueError("the policy does not like it.")
    graph.world.show(now_ns(graph))
    wait_for(lambda: any(s.values.get("refused_policy") == "1" for s in graph.world.diagnostics))
    status = graph.world.diagnostics[-1]
    # An error where pictures were refused for longer, since joint states were missing at first.
    assert status.level in (messages.WARN, messages.ERROR)
    assert status.values["last_refusal"] == "the policy does not like it."
    graph.policy.error = None
    graph.world.show(now_ns(graph))
    graph.chunk(0)
    assert not graph.spinning.done()


def test_after_a_lost_context_the_noise_is_new(make_graph: Callable[..., Graph]) -> None:
    """An episode with seed 0, two contexts lost in it, then an episode with seed 0 again."""
    graph = make_graph("realtime", **PATIENT)
    seen: list[Observed] = []
    graph.world.create_subscription(
        topics.OBSERVED.message_type,
        topics.OBSERVED.name,
        lambda message: seen.append(Observed.from_values(messages.read_status(message).values)),
        topics.OBSERVED.writer_qos.profile(),
    )
    graph.activate()
    wait_for(lambda: graph.world.count_publishers(topics.OBSERVED.name) == 1)
    for index in range(2):
        graph.policy.error = ValueError("the policy does not like it.")
        before = graph.policy.num_failed
        show_until(graph, lambda count=before: graph.policy.num_failed > count)
        graph.policy.error = None
        show_until(graph, lambda count=index: len(seen) > count)
    seeds = [seed for _, seed in graph.policy.resets]

    assert seeds[0] == 0
    anew = [seed for seed in seeds if seed != 0]
    assert len(set(anew)) == len(anew) >= 2
    used = [observed.policy_seed for observed in seen if observed.reset]
    assert len(set(used)) == len(used) >= 2
    assert set(used) <= set(seeds)

    answer = graph.world.reset.call_async(Trigger.Request())
    wait_for(answer.done)
    assert graph.policy.resets[-1] == (INSTRUCTION, 0)


def show_until(graph: Graph, condition: Callable[[], bool]) -> None:
    """Pictures at the camera's rate, until the condition holds."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, "nothing came"
        graph.world.show(now_ns(graph))
        time.sleep(STEP_NS / 1e9)


# 4:3; without the shared-memory profile, best effort loses larger pictures.
SCENE = np.random.default_rng(1).integers(0, 256, (150, 200, 3), np.uint8)


def noisy(picture: ImageArray, count: int) -> ImageArray:
    changed = picture.copy()
    changed.flat[count % changed.size] ^= 1
    return changed


@pytest.mark.parametrize("fault", ["frozen", "encoding", "silent"])
def test_a_faulty_camera_gets_no_chunk_and_a_good_one_does_again(
    make_graph: Callable[..., Graph], fault: str
) -> None:
    """A 200 x 150 camera, fitted by the checkpoint's rule; 0.05 rad from picture to picture."""
    graph = make_graph("realtime", max_camera_silence_s=0.5)
    world = graph.world
    graph.activate()

    def show(count: int, kind: str) -> None:
        stamp_ns = now_ns(graph)
        world.show_joints(stamp_ns, position=0.05 * count)
        if kind == "silent":
            return
        picture = {
            "frozen": SCENE,
        }.get(kind, noisy(SCENE, count))
        encoding = "8UC3" if kind == "encoding" else "rgb8"
        world.send_picture(picture, stamp_ns, encoding)

    def show_until(condition: Callable[[], object], kind: str) -> None:
        deadline_s, count = time.monotonic() + TIMEOUT_S, 0
        while not condition():
            assert time.monotonic() < deadline_s, kind
            show(count, kind)
            count += 1
            # Slower than node and world, which share this process, can take on a busy machine.
            time.sleep(0.05)

    def reported(value: str) -> bool:
        return any(status.values["camera_fault"] == value for status in world.diagnostics)

    show_until(lambda: world.chunks, "good")
    assert graph.policy.observations[0].image.shape == (128, 128, 3)
    world.execute(0)
    show_until(lambda: reported(fault), fault)
    told = [status for status in world.diagnostics if status.values["camera_fault"] == fault]
    assert told[0].level == messages.ERROR
    assert told[0].message.startswith("no chunk is sent: ")
    # Longer than a chunk and than the time after which an unanswered one is given up. An answer to
    # a picture from before may still be on its way.
    fault_ns = now_ns(graph)
    show_until(lambda: now_ns(graph) > fault_ns + 3 * CHUNK_NS, fault)
    assert [stamp_ns for stamp_ns, _ in world.chunks if stamp_ns > fault_ns] == []
    num_chunks = len(world.chunks)
    world.diagnostics.clear()
    show_until(lambda: len(world.chunks) > num_chunks and reported(""), "good")


class CheckpointPolicy(RecordingPolicy):
    """A real policy, watched."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = policy

    @property
    def spec(self) -> PolicySpec:
        return self._policy.spec

    def reset(self, instruction: str, seed: int) -> None:
        self._policy.reset(instruction, seed)

    def observe(self, observation: Observation) -> None:
        self._policy.observe(observation)
        self.observations.append(observation)

    def act(self, committed: FloatArray | None = None) -> ActionChunk:
        return self._policy.act()


def test_a_clip_checkpoint_answers(make_graph: Callable[..., Graph], tmp_path: Path) -> None:
    """par_tiny with a video autoencoder; pictures of 128 x 128 are fitted to its 32 x 32."""
    codec = FrameCodecConfig("opensora_plan", 4, 8, 1, (32, 32, 32, 32), 1, 32, 0.2, 2, 4)
    parts = random_checkpoint_parts("par_tiny", codec=codec, observation_mode="clip")
    save_checkpoint(tmp_path / "clip", **parts)
    policy = CheckpointPolicy(load_policy(tmp_path / "clip", backend="eager", device="cpu"))
    graph = make_graph("lockstep", policy=policy, num_warm_up=2, instruction=INSTRUCTIONS[0])
    graph.activate()
    policy.observations.clear()
    for index in range(3):
        first_ns = START_NS + index * CHUNK_NS
        if index == 0:
            graph.world.show(first_ns)
        assert graph.chunk(index)[0] == first_ns
        graph.world.execute(index)
        for step in range(1, 9):
            graph.world.show(first_ns + step * STEP_NS)
    graph.chunk(3)
    assert [o.recent_images is None for o in policy.observations] == [True, False, False, False]
    assert policy.observations[3].recent_images.shape == (4, 32, 32, 3)


def test_predictions_are_stamped_with_the_time_they_show(make_graph: Callable[..., Graph]) -> None:
    graph = make_graph("lockstep", predict_images=True)
    graph.activate()
    graph.world.show(START_NS)
    wait_for(lambda: graph.world.predictions)
    assert graph.world.predictions == [START_NS + CHUNK_NS]


def test_what_is_looked_at_has_the_stamp_of_the_picture(make_graph: Callable[..., Graph]) -> None:
    graph = make_graph("lockstep", attention_images=True)
    graph.activate()
    graph.world.show(START_NS)
    wait_for(lambda: graph.world.attention)
    ((stamp_ns, shown),) = graph.world.attention
    assert stamp_ns == START_NS
    np.testing.assert_array_equal(shown, graph.policy.observations[0].image // 2)


def test_latencies_are_reported_once_each(make_graph: Callable[..., Graph]) -> None:
    graph = make_graph("lockstep")
    graph.activate()
    graph.world.show(START_NS)
    graph.chunk(0)
    graph.node.trigger_deactivate()
    wait_for(lambda: any(s.values["active"] == "false" for s in graph.world.diagnostics))
    times = [
        float(word)
        for status in graph.world.diagnostics
        for word in status.values["new_latency_ms"].split()
    ]
    assert len(times) == 1
    assert 0.0 < times[0] < TIMEOUT_S * 1e3


def test_unknown_instruction_fails_configure(
    make_graph: Callable[..., Graph], capsys: pytest.CaptureFixture[str]
) -> None:
    graph = make_graph("lockstep", instruction="Open the door.")
    assert graph.node.trigger_configure().name == "FAILURE"
    assert capsys.readouterr().err.startswith("error: instruction 'Open the door.' is unknown")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"num_actions": 16}, "num_actions is 16 and the policy has chunks of 8 actions"),
        ({"step_s": 0.1}, "step_s is 0.1 s and the policy has actions 0.05 s apart"),
    ],
)
def test_another_chunk_than_the_policy_s_fails_configure(
    make_graph: Callable[..., Graph],
    capsys: pytest.CaptureFixture[str],
    overrides: dict[str, object],
    sentence: str,
) -> None:
    graph = make_graph("lockstep", **overrides)
    assert graph.node.trigger_configure().name == "FAILURE"
    assert capsys.readouterr().err.startswith(f"error: policy_node: {sentence}; give every node")
    same = make_graph("lockstep", num_actions=8, step_s=0.05)
    assert same.node.trigger_configure().name == "SUCCESS"


def test_cleanup_is_the_mirror_of_configure(make_graph: Callable[..., Graph]) -> None:
    graph = make_graph("lockstep")
    graph.activate()
    graph.node.trigger_deactivate()
    assert graph.node.trigger_cleanup().name == "SUCCESS"
    wait_for(lambda: graph.world.pictures.get_subscription_count() == 0)
    graph.activate()
    graph.world.show(START_NS)
    graph.chunk(0)

# SPDX-License-Identifier: Apache-2.0
"""`python -m par_ros soak --chunks N --json F`: policy, guard and loopback arm for a long time.

The graph is that of `python -m par_ros loopback` with the shipped policy. Every five seconds the
memory of each process is read (resident and anonymous, from /proc/PID/smaps_rollup); at the end
every process that the run had started must be gone. What a watchdog does while nothing is wrong is
a miss, and is counted: late chunks, dead policy, stale joint states, clock steps, a controller
that is silent or did not take a trajectory.

--pace K runs the arm's time K times faster: the chunk lasts 0.4 / K s, and the arm's velocity,
acceleration and jerk limits are K, K^2 and K^3 times the arm file's, so that the same motion is as
near to them. The network, the messages and the watchdogs' deadlines stay as they are.

--inference overlapped needs a checkpoint that was trained with prefixes (--checkpoint). --delay LOW
HIGH sends every answer when its picture is so old, drawn evenly; --loss loses that share of the
pictures, chunks, reports of the guard and trajectories. Every stop (the guard holds or disengages)
is then named with the loss that explains it; one that nothing explains fails the run, a watchdog
that a loss explains does not. With sequential inference the arm waits for every answer, so a delay
explains its holds. The ledger's p50, p99 and p99.9 are of all chunks of the run. The time counts
from when the guard is engaged. Ctrl-C ends it with what was measured until then: "interrupted" is
true, "passed" false, the exit code 130.
"""

import dataclasses
import datetime
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_srvs.srv import Trigger
from tyro.conf import arg

from par_model.command_line import default_is, output_file, parse
from par_model.output_files import write_text
from par_ros import messages
from par_ros.chunk_ledger import LEDGER_FIELDS, ledger_rows
from par_ros.control.guard_settings import GuardParameters
from par_ros.graph_arguments import LoopbackArguments
from par_ros.graph_runner import GraphRunner, Interrupted, RunError, interruptible
from par_ros.node_graph import LOOPBACK, NodeGraph, loopback_graph
from par_ros.parameters import read_yaml
from par_ros.process import PARENT_VARIABLE, report_error
from par_ros.proof.losses import LOSS_VARIABLE, Loss, losses_of
from par_ros.proof.paced_policy import PACE_VARIABLE
from par_ros.proof.process_memory import ProcessMemory
from par_ros.proof.soak_stops import StopList
from par_ros.resources import resource
from par_ros.run_results import hardware, percentiles
from par_ros.topics import DIAGNOSTICS, ENGAGE, GUARD, GUARD_STATE, POLICY
from par_ros.wire_records import GuardState, PolicyStatus

_SAMPLE_PERIOD_S = 5.0
_ALL_COMMITTED = 100
_FLAT_SHARE = 0.02
_ENGAGE_PERIOD_S = 2.0
_MAX_ENGAGE_S = 60.0
# Of the chunks, the guard refuses those that come while it is disengaged.
_MAX_REFUSED_SHARE = 0.2
_WATCHDOG_COUNTERS = (
    "hold_late",
    "late",
    "fault_dead_policy",
    "fault_joint_states_stale",
    "fault_clock",
    "fault_reference_silent",
    "fault_not_taken",
)
# Memory is looked at some times in it.
MIN_DURATION_S = 10.0
# The exit code.
_INTERRUPTED = 130
# Left out on the screen.
_LONG = ("memory_mib", "stops")
_LIMIT_POWERS = {
    "max_velocity_rad_s": 1,
    "max_acceleration_rad_s2": 2,
    "max_jerk_rad_s3": 3,
    "stop_jerk_rad_s3": 3,
}


@dataclass(frozen=True)
class SoakOptions:
    """The command line."""

    # chunks that the policy sends; at least 100
    chunks: int = 10_000
    # in place of --chunks: how long the arm moves, at least 10 [s]
    duration: Annotated[float | None, default_is("until --chunks are sent")] = None
    # folder of the policy
    checkpoint: Annotated[str, arg(metavar="DIR"), default_is("the policy that is shipped")] = ""
    # the policy's inference
    inference: Literal["sequential", "overlapped"] = "sequential"
    # age of a picture when its chunk is sent, at least and at most [s]
    delay: Annotated[tuple[float, float], arg(metavar="LOW HIGH")] = (0.0, 0.0)
    # share of the messages that are lost
    loss: float = 0.0
    # 1 to 5: times faster
    pace: float = 1.0
    # runtime of the network
    backend: str = "onnx"
    # where to write the result
    json: Annotated[Path | None, output_file()] = None

    def __post_init__(self) -> None:
        if not 1.0 <= self.pace <= 5.0 or self.chunks < 100:
            raise ValueError("--pace must be 1 to 5, and --chunks at least 100.")
        if self.duration is not None and self.duration < MIN_DURATION_S:
            raise ValueError(f"--duration must be at least {MIN_DURATION_S:g} s.")
        if not 0.0 <= self.delay[0] <= self.delay[1] or not 0.0 <= self.loss < 1.0:
            raise ValueError("--delay must be LOW to HIGH from 0 on, and --loss from 0 to below 1.")
        if self.pace != 1.0 and self.inference == "overlapped":
            raise ValueError("--inference overlapped needs --pace 1.")

    @property
    def is_disturbed(self) -> bool:
        """Whether answers are delayed or messages lost on purpose."""
        return self.delay[1] > 0.0 or self.loss > 0.0


class SoakWatch(Node):
    """Listens to /diagnostics and guard_state; engages the guard whenever it is disengaged."""

    def __init__(self, context: Context) -> None:
        super().__init__("soak_watch", context=context)
        self.guard: dict[str, str] = {}
        self.policy: dict[str, str] = {}
        self.stops = StopList()
        self.ledger: list[tuple[float | None, ...]] = []
        self.num_missed = 0
        self.is_engaged = False
        self.why_not_engaged = "no guard_state has come"
        self._asked_s = 0.0
        self._engage = self.create_client(Trigger, ENGAGE.client_name)
        self.create_subscription(
            DiagnosticArray,
            DIAGNOSTICS.name,
            self._on_diagnostics,
            DIAGNOSTICS.reader_qos.profile(),
        )
        # Only the guard says here whether it is engaged.
        self.create_subscription(
            DiagnosticStatus,
            GUARD_STATE.name,
            self._on_guard_state,
            GUARD_STATE.reader_qos.profile(),
        )

    def _on_guard_state(self, message: DiagnosticStatus) -> None:
        status = messages.read_status(message)
        state = GuardState.from_values(status.values)
        self.is_engaged = state.engaged
        self.stops.note(state, status.message, time.time())
        if not self.is_engaged:
            self._engage_again()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in messages.read_diagnostics(message):
            if status.name == POLICY:
                self.policy = dict(status.values)
                known = PolicyStatus.from_values(status.values)
                self.ledger += ledger_rows(known.new_ledger_ms)
                self.num_missed = known.missed_chunks
            elif status.name == GUARD:
                self.guard = dict(status.values)

    def _engage_again(self) -> None:
        now_s = time.monotonic()
        if now_s - self._asked_s < _ENGAGE_PERIOD_S:
            return
        self._asked_s = now_s
        self._engage.call_async(Trigger.Request()).add_done_callback(self._on_reply)

    def _on_reply(self, future: "Future[Trigger.Response]") -> None:
        reply = future.result()
        if reply is not None:
            self.why_not_engaged = reply.message

    @property
    def num_chunks(self) -> int:
        """Chunks that the policy has sent."""
        return int(self.policy.get("chunks", 0))


def soak_graph(options: SoakOptions, folder: Path) -> NodeGraph:
    """The loopback graph, its processes' output in `folder`/logs; `pace` times faster."""
    pace = options.pace
    graph = loopback_graph(
        LoopbackArguments(
            backend=options.backend,
            checkpoint=options.checkpoint,
            inference=options.inference,
            # paced_policy goes on from all that is committed.
            max_prefix_steps=_ALL_COMMITTED,
        )
    )
    entries = []
    for entry in graph.nodes:
        parameters = dict(entry.parameters)
        if "step_s" in parameters:
            parameters["step_s"] = float(entry.parameters["step_s"]) / pace
        if entry.name == POLICY:
            entry = dataclasses.replace(entry, executable="proof.paced_policy")
            low_s, high_s = options.delay
            parameters |= {
                "policy_delay": (low_s + high_s) / 2,
                "delay_jitter": (high_s - low_s) / 2,
            }
        elif pace != 1.0:
            parameters["arm"] = str(_paced_arm(pace, folder))
            if entry.name == GUARD:
                # The splice is the network's and the controller's: it stays.
                parameters["tail_s"] = GuardParameters.tail_s / pace
            else:
                parameters["image_rate_hz"] = min(20.0 * pace, 200.0)
        if entry.name == LOOPBACK:
            entry = dataclasses.replace(entry, executable="proof.losses")
        entries.append(dataclasses.replace(entry, parameters=parameters))
    environment = {
        **graph.environment,
        PACE_VARIABLE: str(pace),
        LOSS_VARIABLE: str(options.loss),
    }
    return dataclasses.replace(
        graph, nodes=tuple(entries), environment=environment, log_folder=folder / "logs"
    )


def _paced_arm(pace: float, folder: Path) -> Path:
    """panda.yaml for a clock that runs `pace` times faster; a checkpoint asks for the name."""
    content: Any = dict(read_yaml(resource("config/arms/panda.yaml")))
    for joint in content["joints"].values():
        for name, power in _LIMIT_POWERS.items():
            joint[name] *= pace**power
    content["gripper"]["max_target_speed_m_s"] *= pace
    content["tracking"]["lag_s"] /= pace
    path = folder / "panda.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def run_soak(options: SoakOptions, folder: Path) -> dict[str, Any]:
    """Run until enough chunks were sent, or for so long; the result so far where that is
    interrupted. Raises RunError where a process ends, Interrupted before the guard is engaged."""
    graph = soak_graph(options, folder)
    begin_s = time.monotonic()
    with GraphRunner(graph) as runner:
        runner.start()
        context = Context()
        rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
        watch = SoakWatch(context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(watch)
        memories = {name: ProcessMemory(pid) for name, pid in _children(graph).items()}
        try:
            _wait_until_engaged(watch, executor)
            _sample(memories, 0.0)
            started_s = time.monotonic()
            is_whole = _measure(options, watch, executor, memories, started_s)
        finally:
            ended_s = time.monotonic()
            executor.shutdown()
            watch.destroy_node()
            context.try_shutdown()
    if sys.stderr.isatty():
        print(file=sys.stderr)
    orphans = _processes_of_this_run()
    losses = losses_of(folder / "logs")
    durations_s = started_s - begin_s, ended_s - started_s
    result = _report(options, watch, memories, orphans, losses, durations_s)
    return {**result, "passed": result["passed"] and is_whole, "interrupted": not is_whole}


def _wait_until_engaged(watch: SoakWatch, executor: SingleThreadedExecutor) -> None:
    """Raises RunError with the guard's reason if it is not within a minute."""
    deadline_s = time.monotonic() + _MAX_ENGAGE_S
    while not watch.is_engaged:
        executor.spin_once(timeout_sec=0.2)
        if time.monotonic() > deadline_s:
            raise RunError(
                f"the guard was not engaged within {_MAX_ENGAGE_S:g} s: {watch.why_not_engaged}"
            )


def _measure(
    options: SoakOptions,
    watch: SoakWatch,
    executor: SingleThreadedExecutor,
    memories: dict[str, ProcessMemory],
    started_s: float,
) -> bool:
    """Listen and sample until it is over; False where it is interrupted before."""
    next_s = started_s + _SAMPLE_PERIOD_S
    try:
        while not _is_over(options, watch, time.monotonic() - started_s):
            executor.spin_once(timeout_sec=0.2)
            now_s = time.monotonic()
            if now_s >= next_s:
                next_s += _SAMPLE_PERIOD_S
                _sample(memories, now_s - started_s)
                _say(watch, memories, now_s - started_s)
    except Interrupted:
        return False
    return True


def _is_over(options: SoakOptions, watch: SoakWatch, duration_s: float) -> bool:
    if options.duration is not None:
        return duration_s >= options.duration
    return watch.num_chunks >= options.chunks


def _sample(memories: dict[str, ProcessMemory], time_s: float) -> None:
    for name, memory in memories.items():
        try:
            memory.add(time_s)
        except OSError:
            raise RunError(f"{name} has ended; its output is in the run's logs.") from None


def _say(watch: SoakWatch, memories: dict[str, ProcessMemory], duration_s: float) -> None:
    sizes = ", ".join(f"{name} {m.resident_mib[-1]:.0f}" for name, m in memories.items())
    counts = f"{watch.num_chunks} chunks, {len(watch.stops.stops)} stops"
    line = f"{duration_s:.0f} s: {counts}, MiB: {sizes}"
    # In a terminal over the line before; in a file each is a line.
    begin, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
    print(begin + line, end=end, file=sys.stderr, flush=True)


def _report(
    options: SoakOptions,
    watch: SoakWatch,
    memories: dict[str, ProcessMemory],
    orphans: list[str],
    losses: list[Loss],
    durations_s: tuple[float, float],
) -> dict[str, Any]:
    bring_up_s, duration_s = durations_s
    counters = {name: int(text) for name, text in watch.guard.items() if text.isdigit()}
    misses = {name: counters.get(name, 0) for name in _WATCHDOG_COUNTERS}
    growth = {name: memory.growth() for name, memory in memories.items()}
    waits = options.inference == "sequential" and options.delay[1] > 0.0
    stops = watch.stops.explained(losses, waits=waits)
    unexplained = [stop for stop in stops if not stop.explained_by]
    refused_share = counters.get("refused", 0) / max(counters.get("chunks", 0), 1)
    return {
        "command": _command(options),
        "passed": (
            max(growth.values()) <= _FLAT_SHARE
            and (options.is_disturbed or not any(misses.values()))
            and not (unexplained or orphans)
            and counters.get("chunks", 0) > 0
            and refused_share <= _MAX_REFUSED_SHARE
        ),
        "num_chunks": watch.num_chunks,
        "chunks_a_second": watch.num_chunks / duration_s,
        "bring_up_s": bring_up_s,
        "duration_s": duration_s,
        "backend": watch.policy.get("backend", ""),
        "inference_ms": {
            name: watch.policy.get(f"inference_ms_{name}", "") for name in ("p50", "p99")
        },
        "memory_growth_share": growth,
        "memory_flat": max(growth.values()) <= _FLAT_SHARE,
        "refused_share": refused_share,
        "watchdog_misses": misses,
        "guard_counters": counters,
        "ledger_ms": {
            name: percentiles(row[column] for row in watch.ledger if row[column] is not None)
            for column, name in enumerate(LEDGER_FIELDS)
        },
        "missed_chunks": watch.num_missed,
        "losses": dict(Counter(loss.kind for loss in losses)),
        "num_stops": len(stops),
        "stops_of_a_kind": dict(Counter(stop.kind for stop in stops)),
        "num_unexplained_stops": len(unexplained),
        "unexplained_stops": [dataclasses.asdict(stop) for stop in unexplained],
        "stops": [dataclasses.asdict(stop) for stop in stops],
        "orphans": orphans,
        "memory_mib": {name: memory.to_json() for name, memory in memories.items()},
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
    }


def _command(options: SoakOptions) -> str:
    """What a user types for it, without what is the default."""
    words = ["python -m par_ros soak"]
    for one in dataclasses.fields(SoakOptions):
        value = getattr(options, one.name)
        if value != one.default and one.name != "json":
            numbers = value if isinstance(value, tuple) else (value,)
            words.append(f"--{one.name} {' '.join(str(number) for number in numbers)}")
    return " ".join(words)


def _children(graph: NodeGraph) -> dict[str, int]:
    """Process of each node of the graph; they carry their node's name in the command line."""
    found = {}
    for pid in _pids(lambda pid: os.getppid() != pid and _parent(pid) == os.getpid()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        for entry in graph.nodes:
            if f"__node:={entry.name}" in words:
                found[entry.name] = pid
    return found


def _processes_of_this_run() -> list[str]:
    """Command lines of living processes that this one, or a child of it, has started."""
    mark = f"{PARENT_VARIABLE}={os.getpid()}".encode()
    own = os.getpid()

    def is_ours(pid: int) -> bool:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return pid != own and mark in environment

    return [
        Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        for pid in _pids(is_ours)
    ]


def _parent(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return int(text.rpartition(")")[2].split()[1])


def _pids(wanted: Callable[[int], bool]) -> list[int]:
    """Processes for which `wanted` holds; those that end meanwhile, or are another's, do not."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def main(arguments: list[str]) -> int:
    """0 where memory was flat, no watchdog fired, the arm moved and no process was left; 130 where
    it was interrupted."""
    options = parse(SoakOptions, "python -m par_ros soak", __doc__, arguments)
    # Kept where the run fails: the nodes' logs say why.
    folder = Path(tempfile.mkdtemp(prefix="par_soak_"))
    try:
        with interruptible():
            result = run_soak(options, folder)
    except Interrupted:
        print("interrupted before the guard was engaged; nothing was measured", file=sys.stderr)
        return _INTERRUPTED
    except (RunError, ValueError) as error:
        return report_error(error)
    if result["passed"]:
        shutil.rmtree(folder)
    else:
        print(f"The nodes' logs: {folder / 'logs'}", file=sys.stderr)
    text = json.dumps(result, indent=1)
    if options.json is not None:
        write_text("the result", options.json, text + "\n")
    print(json.dumps({k: v for k, v in result.items() if k not in _LONG}, indent=1))
    if result["interrupted"]:
        return _INTERRUPTED
    return 0 if result["passed"] else 1

# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and a lost terminal (SIGHUP) end a node with code 0 and without a word; one that
is still preparing its work at once.

The work takes 60 s. The end takes less than the 5 s after which `ros2 launch` insists; the tests
allow 20 s, as the machine may be busy.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ros.processes import ROOT, shared_segments, wait_for

pytestmark = pytest.mark.ros

START_S = 60.0
MAX_END_S = 20.0
NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# What a user's terminal would do, wherever the tests run from.
ORDINARY = (
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
)
SLOW_LOAD = (
    ORDINARY + "import pathlib, sys, time\n"
    "from par_ros.policy_node import PolicyNode\n"
    "from par_ros.process import run_node\n"
    "def load(parameters):\n"
    "    pathlib.Path(sys.argv[1]).touch()\n"
    "    time.sleep(60.0)\n"
    "class Eager(PolicyNode):\n"
    "    def __init__(self):\n"
    "        super().__init__(load)\n"
    "        self.create_timer(0.01, self.trigger_configure)\n"
    "sys.exit(run_node(Eager, arguments=[]))\n"
)
SLOW_IMPORT = (
    ORDINARY + "import pathlib, sys, types, time\n"
    "class Slow(types.ModuleType):\n"
    "    def __getattr__(self, name):\n"
    "        if name == 'load_policy':\n"
    "            pathlib.Path(sys.argv[1]).touch()\n"
    "            time.sleep(60.0)\n"
    "        raise AttributeError(name)\n"
    "sys.modules['par_model.load_policy'] = Slow('par_model.load_policy')\n"
    "from par_ros.policy_node import PolicyNode\n"
    "from par_ros.policy_source import checkpoint_policy\n"
    "from par_ros.process import run_node\n"
    "class Eager(PolicyNode):\n"
    "    def __init__(self):\n"
    "        super().__init__(checkpoint_policy)\n"
    "        self.create_timer(0.01, self.trigger_configure)\n"
    "sys.exit(run_node(Eager, arguments=[]))\n"
)
SLOW_SIMULATOR = (
    ORDINARY + "import pathlib, sys, time\n"
    "from par_ros import maniskill_bridge_node as bridge\n"
    "def make_arm(task, parameters):\n"
    "    pathlib.Path(sys.argv[1]).touch()\n"
    "    try:\n"
    "        time.sleep(60.0)\n"
    "    except KeyboardInterrupt:\n"
    "        raise AttributeError('what an interrupted import ends by')\n"
    "bridge.make_maniskill_arm = make_arm\n"
    "sys.exit(bridge.main())\n"
)
SLOW_START_OF_ROS = (
    ORDINARY + "import pathlib, sys, time\n"
    "import rclpy\n"
    "def init(**_):\n"
    "    pathlib.Path(sys.argv[1]).touch()\n"
    "    time.sleep(60.0)\n"
    "rclpy.init = init\n"
    "from par_ros.process import run_node\n"
    "sys.exit(run_node(lambda: None, arguments=[]))\n"
)
SLOW_EXECUTABLE = (
    ORDINARY + "import pathlib, sys, time\n"
    "class Finder:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name == 'par_ros.safety_node':\n"
    "            pathlib.Path(sys.argv[1]).touch()\n"
    "            time.sleep(60.0)\n"
    "sys.meta_path.insert(0, Finder())\n"
    "from par_ros.executables import safety_node\n"
    "sys.exit(safety_node())\n"
)


SPINNING = (
    ORDINARY + "import pathlib, sys, time\n"
    "from rclpy.node import Node\n"
    "from par_ros.process import run_node, run_beside_spinning\n"
    "class Plain(Node):\n"
    "    def destroy_node(self):\n"
    "        time.sleep(0.5)\n"
    "        super().destroy_node()\n"
    "    def __init__(self):\n"
    "        super().__init__('plain')\n"
    "        self.create_timer(0.1, pathlib.Path(sys.argv[1]).touch)\n"
)
BESIDE = SPINNING + "sys.exit(run_beside_spinning(Plain, lambda node: time.sleep(60.0)))\n"
NOHUP = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
FINISHING = SPINNING + (
    "sys.exit(run_node(Plain, arguments=[], before_end=lambda node: time.sleep(0.5)))\n"
)
# Its executor always has more to do.
BUSY = (
    ORDINARY + "import pathlib, sys, time\n"
    "from rclpy.lifecycle import LifecycleNode\n"
    "from par_ros.leaving import leave\n"
    "from par_ros.process import run_node\n"
    "class Busy(LifecycleNode):\n"
    "    def __init__(self):\n"
    "        super().__init__('busy')\n"
    "        self.create_timer(0.001, self.work)\n"
    "    def work(self):\n"
    "        time.sleep(0.002)\n"
    "        pathlib.Path(sys.argv[1]).touch()\n"
    "leave(run_node(Busy, arguments=[], before_end=lambda node: None))\n"
)
ALONE = SPINNING + "sys.exit(run_node(Plain, arguments=[]))\n"


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "program", [ALONE, BESIDE, FINISHING], ids=["alone", "beside", "finishing"]
)
def test_a_second_signal_does_not_disturb_a_quiet_end(
    tmp_path: Path, free_domain: str, program: str, number: signal.Signals
) -> None:
    """Five in 0.25 s; taking the node down takes half a second."""
    mark = tmp_path / "spinning"
    process = started(program, mark, free_domain)
    try:
        wait_for(lambda: mark.exists() or process.poll() is not None, START_S, "spinning")
        for _ in range(5):
            process.send_signal(number)
            time.sleep(0.05)
        output, error = process.communicate(timeout=START_S)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert output == error == ""


def test_a_busy_node_leaves_nothing_in_shared_memory(tmp_path: Path, free_domain: str) -> None:
    """Asked to end between two callbacks of many: what the executor has not looked at any more must
    not keep the node."""
    mark = tmp_path / "spinning"
    process = started(BUSY, mark, free_domain)
    try:
        wait_for(lambda: mark.exists() or process.poll() is not None, START_S, "spinning")
        own = shared_segments(process.pid)
        process.send_signal(signal.SIGTERM)
        output, error = process.communicate(timeout=START_S)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert output == error == ""
    assert own
    assert [path for path in own if path.exists()] == []


@pytest.mark.parametrize("program", [ALONE, BESIDE], ids=["alone", "beside"])
def test_nohup_keeps_a_node_alive(tmp_path: Path, free_domain: str, program: str) -> None:
    mark = tmp_path / "spinning"
    process = started(NOHUP + program, mark, free_domain)
    try:
        wait_for(lambda: mark.exists() or process.poll() is not None, START_S, "spinning")
        process.send_signal(signal.SIGHUP)
        mark.unlink()
        wait_for(lambda: mark.exists() or process.poll() is not None, START_S, "spinning on")
        process.send_signal(signal.SIGTERM)
        output, error = process.communicate(timeout=MAX_END_S)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert output == error == ""


def started(program: str, mark: Path, domain: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(mark)],
        cwd=ROOT,
        env={**os.environ, "ROS_DOMAIN_ID": domain},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_while_ros_starts_is_a_quiet_end(tmp_path: Path, free_domain: str) -> None:
    mark = tmp_path / "starting"
    process = started(SLOW_START_OF_ROS, mark, free_domain)
    try:
        wait_for(lambda: mark.exists() or process.poll() is not None, START_S, "the start")
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=START_S)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert output == error == ""


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "program",
    [SLOW_LOAD, SLOW_IMPORT, SLOW_SIMULATOR, SLOW_EXECUTABLE],
    ids=["load", "import", "simulator", "executable"],
)
def test_what_only_prepares_is_left_at_once(
    tmp_path: Path, free_domain: str, program: str, number: signal.Signals
) -> None:
    mark = tmp_path / "at work"
    process = started(program, mark, free_domain)
    try:
        wait_for(lambda: mark.exists() or process.poll() is not None, START_S, "the work")
        assert process.poll() is None, process.communicate()[1]
        started_s = time.monotonic()
        process.send_signal(number)
        output, error = process.communicate(timeout=START_S)
    finally:
        process.kill()
    assert time.monotonic() - started_s < MAX_END_S
    assert process.returncode == 0
    assert output == error == ""

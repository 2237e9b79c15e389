# SPDX-License-Identifier: Apache-2.0
"""The shipped policy's answers: three fixed pictures in, the recorded chunks out on every backend.

Numbers: for each of the three instructions three pictures 0.4 s apart, 3 chunks of [8, 8] joint
positions, the same to 1e-4 rad. After the weights or the sampling of checkpoints/par_small changed
on purpose, record them again: `python -m tests.backends.test_shipped_golden`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.backends.static_graphs import StaticGraphs
from par_model.backends.torch_compiled import TorchCompiled
from par_model.backends.torch_eager import TorchEager
from par_model.checkpoint import load_checkpoint
from par_model.interface import Observation
from par_model.load_policy import load_policy
from par_model.policy import PARPolicy
from tests.backends.runtimes import CPU, require_onnx, require_openvino

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints/par_small"
GOLDEN = Path(__file__).with_name("shipped_golden.json")
TOLERANCE_RAD = 1e-4
SEED = 20260101
REST = (0.0, np.pi / 8, 0.0, -5 * np.pi / 8, 0.0, 3 * np.pi / 4, np.pi / 4, 0.04)

BACKENDS = (
    "eager",
    "static",
    pytest.param("onnx", marks=pytest.mark.slow),
    pytest.param("openvino", marks=pytest.mark.slow),
    pytest.param("compiled", marks=pytest.mark.slow),
)


def picture(number):
    """A grey table, a dark arm that comes down and a red cube that moves to the right."""
    image = np.full((128, 128, 3), (110, 105, 100), np.uint8)
    image[:40] = (60, 70, 90)
    image[: 50 + 8 * number, 58:70] = (230, 230, 230)
    image[80:92, 40 + 12 * number : 52 + 12 * number] = (190, 40, 30)
    return image


def joints(number):
    return np.array(REST) + 0.02 * number * np.cos(np.arange(8))


def observation(policy, number, before):
    """`before` is the chunk that was executed since the last picture, or None."""
    return Observation(
        picture(number), joints(number), policy.spec.joint_names, 0.4 * number, before
    )


def static_policy():
    """The contract's graphs on PyTorch's operators as they are, without a compiler."""
    parts = load_checkpoint(CHECKPOINT)
    sampling = parts.config.sampling
    steps = (sampling.action_sampler, sampling.action_num_steps)
    runtime = TorchCompiled(parts, CPU, torch.float32, *steps, lambda module: module)
    graphs = StaticGraphs(parts, runtime, TorchEager(parts, CPU))
    return PARPolicy(parts.config, parts.statistics, parts.instructions, graphs, parts.camera_fit)


@pytest.fixture(scope="module", params=BACKENDS)
def policy(request):
    if request.param == "static":
        return static_policy()
    if request.param == "onnx":
        require_onnx()
    if request.param == "openvino":
        require_onnx()
        require_openvino()
    if request.param == "compiled" and shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    return load_policy(CHECKPOINT, backend=request.param, device="cpu")


def golden():
    return {text: np.array(chunks) for text, chunks in json.loads(GOLDEN.read_text()).items()}


@pytest.mark.parametrize("instruction", golden())
def test_three_pictures_give_the_recorded_chunks(policy, instruction):
    expected = golden()[instruction]
    policy.reset(instruction, SEED)
    for number in range(3):
        # The recorded chunk counts as executed, so that one deviation is not carried on.
        before = None if number == 0 else expected[number - 1]
        policy.observe(observation(policy, number, before))
        found = policy.act().joint_positions
        np.testing.assert_allclose(found, expected[number], atol=TOLERANCE_RAD, rtol=0)


def test_every_instruction_has_its_own_chunks():
    policy = load_policy(CHECKPOINT, backend="eager", device="cpu")
    recorded = golden()
    assert set(recorded) == set(policy.spec.instructions)
    first, *others = recorded.values()
    assert first.shape == (3, 8, 8)
    assert min(np.abs(first - other).max() for other in others) > 100 * TOLERANCE_RAD
    assert np.abs(first[0] - first[1]).max() > 100 * TOLERANCE_RAD


def record():
    policy = load_policy(CHECKPOINT, backend="eager", device="cpu")
    chunks = {}
    for instruction in policy.spec.instructions:
        policy.reset(instruction, SEED)
        answers = []
        for number in range(3):
            before = np.array(answers[-1]) if answers else None
            policy.observe(observation(policy, number, before))
            answers.append(np.round(policy.act().joint_positions, 7).tolist())
        chunks[instruction] = answers
    rows = [f"{json.dumps(text)}: {json.dumps(answers)}" for text, answers in chunks.items()]
    GOLDEN.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    record()

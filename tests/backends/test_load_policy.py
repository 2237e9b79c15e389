# SPDX-License-Identifier: Apache-2.0
"""Which runtime answers, and what is said about the others."""

import logging

import numpy as np
import pytest
import torch

from par_model.checkpoint import save_checkpoint
from par_model.interface import Observation
from par_model.load_policy import load_policy
from tests.backends.runtimes import require_onnx, small_checkpoint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A saved par_tiny; the cache of exports is empty."""
    monkeypatch.setenv("PAR_CACHE", str(tmp_path / "cache"))
    parts = {k: v for k, v in vars(small_checkpoint()).items() if k != "training"}
    save_checkpoint(tmp_path / "tiny", **parts, card="", training={})
    return tmp_path / "tiny"


def chunk_of(policy):
    policy.reset("an untrained policy", 3)
    spec = policy.spec
    image = np.arange(spec.image_height * spec.image_width * 3, dtype=np.int64) % 251
    policy.observe(
        Observation(
            image.astype(np.uint8).reshape(spec.image_height, spec.image_width, 3),
            np.linspace(-1, 1, 8),
            spec.joint_names,
            0.0,
        )
    )
    return policy.act().joint_positions


def test_auto_says_why_it_is_eager(folder, caplog):
    if torch.cuda.is_available():
        pytest.skip("on a GPU auto takes another")
    with caplog.at_level(logging.INFO):
        policy = load_policy(folder)
    assert policy.backend == "torch eager on cpu"
    assert "backend auto: not onnx:" in caplog.text
    assert "backend auto: eager, the slowest" in caplog.text


@pytest.mark.slow
def test_auto_takes_onnx_once_it_is_exported(folder, caplog):
    require_onnx()
    if torch.cuda.is_available():
        pytest.skip("on a GPU auto takes another")
    reference = chunk_of(load_policy(folder, backend="eager"))
    exported = load_policy(folder, backend="onnx")
    with caplog.at_level(logging.INFO):
        policy = load_policy(folder)
    assert policy.backend.startswith("ONNX Runtime")
    assert "backend auto: onnx, the fastest that works on cpu" in caplog.text
    for each in (exported, policy):
        np.testing.assert_allclose(chunk_of(each), reference, atol=1e-4)
    # Another number of steps is another export.
    assert load_policy(folder, num_steps=2).backend == "torch eager on cpu"


@pytest.mark.parametrize(
    ("backend", "words"),
    [("tensorrt", "needs a CUDA GPU"), ("quantum", "choose one of auto, tensorrt, compiled, onnx")],
)
def test_a_backend_that_cannot_run_is_refused(folder, backend, words):
    with pytest.raises(ValueError, match=words):
        load_policy(folder, backend=backend, device="cpu")

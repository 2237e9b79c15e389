# SPDX-License-Identifier: Apache-2.0
"""Which runtime answers, and what is said about the others."""

import importlib.util
import json
import logging
import sys

import numpy as np
import pytest
import torch

from par_model.checkpoint import save_checkpoint
from par_model.interface import Observation
from par_model.load_policy import load_chosen, load_policy
from tests.backends.runtimes import require_onnx, small_checkpoint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A saved par_tiny; the cache of exports is empty."""
    monkeypatch.setenv("PAR_CACHE", str(tmp_path / "cache"))
    parts = {k: v for k, v in vars(small_checkpoint()).items() if k != "training"}
    save_checkpoint(tmp_path / "tiny", **parts, card="", training={})
    return tmp_path / "tiny"


def chunk_of(policy, num_steps=None):
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
    return policy.act(num_steps=num_steps).joint_positions


def on_a_cpu():
    if torch.cuda.is_available():
        pytest.skip("on a GPU auto takes another")


def test_auto_says_why_it_is_eager(folder, caplog, monkeypatch):
    """Without the packages, without a cache, or too large to be exported unasked."""
    on_a_cpu()
    with monkeypatch.context() as patch:
        # An entry of None makes the import fail as a missing package does.
        patch.setitem(sys.modules, "onnxruntime", None)
        patch.setitem(sys.modules, "openvino", None)
        for name in ("onnx", "openvino"):
            patch.delitem(sys.modules, f"par_model.backends.{name}", raising=False)
        assert_eager(folder, caplog, "pip install onnx onnxscript onnxruntime")
        assert "backend auto: not openvino: OpenVINO is not installed" in caplog.text
    require_onnx()
    with monkeypatch.context() as patch:
        (folder / "file").touch()
        patch.setenv("PAR_CACHE", str(folder / "file"))
        assert_eager(folder, caplog, "cannot be written")
    monkeypatch.setattr("par_model.load_policy._MOST_PARAMETERS_EXPORTED_UNASKED", 1000)
    assert_eager(folder, caplog, "is not exported and has 0 M parameters")


def assert_eager(folder, caplog, words):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert load_policy(folder).backend == "torch eager on cpu"
    assert "backend auto: not " in caplog.text
    assert words in caplog.text
    assert "backend auto: eager, the slowest" in caplog.text


def test_an_onnx_runtime_that_is_too_old_is_a_sentence(tmp_path):
    """As that of Python 3.10, which does not know opset 24; here a file from the future."""
    require_onnx()
    import onnx

    from par_model.backends.onnx import BoundGraph
    from par_model.graphs.contract import GraphSpec

    value = onnx.helper.make_tensor_value_info
    ends = [value(name, onnx.TensorProto.FLOAT, (1,)) for name in ("given", "same")]
    node = onnx.helper.make_node("Identity", ["given"], ["same"])
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    future = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 999)])
    onnx.save(future, tmp_path / "g.onnx")
    with pytest.raises(ValueError, match=r"cannot run .*g\.onnx .*choose backend 'eager'"):
        BoundGraph(tmp_path / "g.onnx", GraphSpec("g", (), ()), 1)


@pytest.mark.slow
def test_auto_exports_and_takes_the_fastest_by_the_first_measurement(folder, caplog):
    """All give the same actions to 1e-4; the times that decide are kept and can be read."""
    require_onnx()
    on_a_cpu()
    names = {"onnx": "ONNX Runtime", "eager": "torch eager"}
    if importlib.util.find_spec("openvino") is not None:
        names["openvino"] = "OpenVINO"
    reference = chunk_of(load_policy(folder, backend="eager"))
    with caplog.at_level(logging.INFO):
        first = load_policy(folder)
    assert "exporting tiny to ONNX, this once" in caplog.text
    kept = next(folder.parent.glob("cache/onnx/*/control_step_ms.json"))
    times = json.loads(kept.read_text())["control_step_ms"]
    assert set(times) == set(names)
    assert first.backend.startswith(names[min(times, key=times.get)])
    np.testing.assert_allclose(chunk_of(first), reference, atol=1e-4)
    for fastest in names:
        content = json.loads(kept.read_text())
        content["control_step_ms"] |= {name: 2.0 - (name == fastest) for name in names}
        kept.write_text(json.dumps(content))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            chosen, policy = load_chosen(folder)
        assert chosen == fastest
        assert policy.backend.startswith(names[fastest])
        assert f"backend auto: {fastest}, as a control step took" in caplog.text
        assert "exporting" not in caplog.text
        np.testing.assert_allclose(chunk_of(policy), reference, atol=1e-4)


@pytest.mark.slow
def test_a_missing_compiler_is_a_sentence(folder, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nowhere/g++"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    with pytest.raises(ValueError, match=r"torch\.compile failed .*choose backend 'eager'"):
        load_policy(folder, backend="compiled", device="cpu")


@pytest.mark.parametrize(
    ("backend", "words"),
    [("tensorrt", "needs a CUDA GPU"), ("quantum", "choose one of auto, tensorrt, compiled")],
)
def test_a_backend_that_cannot_run_is_refused(folder, backend, words):
    with pytest.raises(ValueError, match=words):
        load_policy(folder, backend=backend, device="cpu")


def test_sampler_and_spacing_are_choices_at_run_time(folder):
    """Four ways to sample from one noise: four different chunks, each finite."""
    asked = [
        {"sampler": "ddim", "num_steps": 4},
        {"sampler": "ddim", "num_steps": 4, "spacing": "leading"},
        {"sampler": "dpmsolver++", "num_steps": 4},
        {"sampler": "ddpm", "num_steps": 8},
    ]
    chunks = [chunk_of(load_policy(folder, backend="eager", **choice)) for choice in asked]
    assert all(np.isfinite(chunk).all() for chunk in chunks)
    assert len({chunk.tobytes() for chunk in chunks}) == 4


def test_a_runtime_without_the_sampler_is_passed_over_or_refused(folder):
    assert "eager" in load_policy(folder, sampler="dpmsolver++").backend
    with pytest.raises(ValueError, match="the act graph unrolls 'ddim'"):
        load_policy(folder, backend="onnx", sampler="ddpm")
    with pytest.raises(ValueError, match="sampler 'euler' is unknown"):
        load_policy(folder, backend="eager", sampler="euler")
    with pytest.raises(ValueError, match="spacing 'leading' was asked for"):
        load_policy(folder, spacing="leading")


def test_an_answer_in_fewer_steps_is_that_of_a_policy_with_so_many(folder):
    """10 steps by default, so 5, 2 and 1 too; a static runtime has its own number alone."""
    eager = load_policy(folder, backend="eager", device="cpu")
    assert eager.sampling_steps == (10, 5, 2, 1)
    chunks = [chunk_of(eager, number) for number in (None, 10, 5, 1)]
    for chunk, number in zip(chunks[1:], (10, 5, 1), strict=True):
        other = load_policy(folder, backend="eager", device="cpu", num_steps=number)
        np.testing.assert_array_equal(chunk, chunk_of(other))
    np.testing.assert_array_equal(chunks[0], chunks[1])
    assert not np.array_equal(chunks[1], chunks[2])
    with pytest.raises(ValueError, match=r"3 sampling steps were asked for .* choose one of these"):
        chunk_of(eager, 3)
    require_onnx()
    onnx = load_policy(folder, backend="onnx", device="cpu")
    assert onnx.sampling_steps == (10,)
    with pytest.raises(ValueError, match=r"2 sampling steps were asked for"):
        chunk_of(onnx, 2)

# SPDX-License-Identifier: Apache-2.0
"""TensorRTRuntime without a GPU: refusals by edited files, contexts by a stand-in, names by
NVIDIA's binding (TensorRT-RTX, if installed). Its buffers and aliases: test_contract.py."""

import ast
import dataclasses
import importlib
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.backends import device_graph
from par_model.backends.static_graphs import StaticGraphs
from par_model.backends.tensorrt import TensorRTRuntime
from par_model.export.verify import verify_goldens
from par_model.graphs.goldens import replay, rollout_steps
from par_model.graphs.manifest import GOLDENS
from par_model.policy import PARPolicy
from tests.backends.runtimes import CPU, NUM_STEPS, eager, require_onnx, text_of
from tests.model.fixtures import random_observation


@pytest.fixture(scope="module")
def stand_in_class():
    require_onnx()
    from tests.backends import tensorrt_stand_in

    return tensorrt_stand_in


@pytest.fixture
def built(checkpoint, stand_in_class, tmp_path):
    """(folder with engines for the stand-in's target, stand-in binding)."""
    return tmp_path, stand_in_class.build_stand_in(checkpoint, NUM_STEPS, tmp_path, in_place=True)


def load(folder, binding, target=None, sha256=None):
    return TensorRTRuntime(folder, sha256, binding, target or binding.TARGET, CPU)


def test_one_context_for_each_graph_and_cache(built, checkpoint):
    folder, binding = built
    graphs = StaticGraphs(checkpoint, load(folder, binding), eager(checkpoint))
    steps, text = rollout_steps(checkpoint.config, 4, seed=2), text_of(checkpoint)
    list(zip(replay(graphs, text, steps), replay(graphs, text, steps), strict=True))
    made = [name for call, name in binding.calls if call == "create_execution_context"]
    # Two episodes at once have two caches; encode and act have none.
    assert sorted(made) == ["act", "encode", "prefill", "prefill", "step", "step"]
    runs = [name for call, name in binding.calls if call == "execute_async_v3"]
    assert runs.count("step") == 8


def test_what_is_replayed_keeps_its_context(built, checkpoint, monkeypatch):
    """A CUDA graph owns nothing of what it was captured from: here a replay holds what was launched
    by a weak reference, as the graph holds its memory by an address."""

    def weak_replay(launch, device):
        held = weakref.ref(launch)
        return lambda: held()()

    monkeypatch.setattr(device_graph, "_replay", weak_replay)
    folder, binding = built
    graphs = StaticGraphs(checkpoint, load(folder, binding), eager(checkpoint))
    steps, text = rollout_steps(checkpoint.config, 3, seed=2), text_of(checkpoint)
    for found, expected in zip(
        replay(graphs, text, steps), replay(eager(checkpoint), text, steps), strict=True
    ):
        np.testing.assert_allclose(found["actions"], expected["actions"], atol=1e-4)


def test_a_reset_binds_no_graph_anew(built, checkpoint):
    folder, binding = built
    graphs = StaticGraphs(checkpoint, load(folder, binding), eager(checkpoint))
    parts = (checkpoint.config, checkpoint.statistics, checkpoint.instructions, graphs)
    policy, world = PARPolicy(*parts), np.random.default_rng(0)
    made = []
    for seed in range(3):
        policy.reset(checkpoint.instructions.texts[0], seed)
        policy.observe(random_observation(world, policy.spec, 0.0))
        policy.act()
        made.append(sum(call == "create_execution_context" for call, _ in binding.calls))
    # encode, prefill, step and act
    assert made == [4, 4, 4]


def test_a_binding_without_aliases_gets_its_rows_copied(stand_in_class, checkpoint, tmp_path):
    binding = stand_in_class.build_stand_in(checkpoint, NUM_STEPS, tmp_path, in_place=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(stand_in_class._Engine, "get_aliased_input_tensor")
        graphs = StaticGraphs(checkpoint, load(tmp_path, binding), eager(checkpoint))
        verify_goldens(graphs, tmp_path, graphs.runtime.manifest)


def test_a_driver_that_is_too_old_is_a_sentence(built):
    folder, binding = built

    def refuse(logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    binding.__name__, binding.__version__, binding.Runtime = "tensorrt", "11.4.0.106", refuse
    with pytest.raises(ValueError, match=r"cannot start its Runtime .*nullptr.*driver is older"):
        load(folder, binding)


def test_no_memory_for_a_context_is_a_sentence(built, checkpoint, stand_in_class, monkeypatch):
    folder, binding = built
    monkeypatch.setattr(stand_in_class._Engine, "create_execution_context", lambda engine: None)
    graphs = StaticGraphs(checkpoint, load(folder, binding), eager(checkpoint))
    with pytest.raises(ValueError, match=r"no execution context for graph 'prefill'.*nvidia-smi"):
        graphs.prefill(text_of(checkpoint))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu_name": "NVIDIA H200"}, "gpu_name is 'NVIDIA A100-SXM4-80GB', needed is 'NVIDIA H2"),
        ({"compiler_version": "11.1.0.1"}, "compiler_version is '11.4.0.106', needed is '11.1"),
        ({"compute_capability": "9.0"}, "compute_capability is '8.0', needed is '9.0'"),
        ({"driver_version": "535.1"}, "driver_version is '580.65.06', needed is '535.1'"),
    ],
)
def test_an_engine_for_another_machine_is_refused(built, change, words):
    folder, binding = built
    with pytest.raises(ValueError, match=words):
        load(folder, binding, dataclasses.replace(binding.TARGET, **change))


def test_an_engine_of_another_checkpoint_is_refused(built):
    folder, binding = built
    with pytest.raises(ValueError, match=r"exported from checkpoint 'tiny' \(abababababab\)"):
        load(folder, binding, sha256="cd" * 32)


def test_a_changed_plan_is_refused(built):
    folder, binding = built
    plan = next(folder.glob("step-*.plan"))
    plan.write_bytes(plan.read_bytes() + b" ")
    with pytest.raises(ValueError, match="is not the engine that was built"):
        load(folder, binding)


def test_a_changed_sidecar_is_refused(built):
    folder, binding = built
    path = next(folder.glob("act-*.json"))
    path.write_text(path.read_text().replace('"num_slots": 6', '"num_slots": 7'))
    with pytest.raises(ValueError, match="was changed after it was written"):
        load(folder, binding)


def test_a_manifest_edited_by_hand_is_refused(built):
    folder, binding = built
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"num_steps": 4', '"num_steps": 8'))
    with pytest.raises(ValueError, match="was changed after it was written"):
        load(folder, binding)


def test_a_missing_golden_is_refused(built):
    folder, binding = built
    (folder / GOLDENS).unlink()
    with pytest.raises(ValueError, match=r"lacks goldens\.safetensors"):
        load(folder, binding)


def test_an_engine_with_another_border_is_refused(built, stand_in_class):
    folder, binding = built
    graph = binding.graphs["act"]
    noise = dataclasses.replace(graph.spec.inputs[1], shape=(1, 4, 8))
    spec = dataclasses.replace(graph.spec, inputs=(graph.spec.inputs[0], noise))
    binding.graphs["act"] = dataclasses.replace(graph, spec=spec)
    with pytest.raises(ValueError, match=r"tensor noise must be input float32 \[1, 8, 8\], it is"):
        load(folder, binding)


def test_wrong_numbers_are_refused_by_the_golden_step(built, checkpoint):
    folder, binding = built
    graphs = StaticGraphs(checkpoint, load(folder, binding), eager(checkpoint))
    verify_goldens(graphs, folder, graphs.runtime.manifest)
    with torch.no_grad():
        binding.graphs["act"].module.rows[:, 0] += 0.5
    with pytest.raises(ValueError, match="actions is off by"):
        verify_goldens(graphs, folder, graphs.runtime.manifest)


def test_every_name_of_the_binding_exists():
    """Attributes that backends/tensorrt*.py and export/build.py use on TensorRT's objects."""
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx==1.7.1.116")
    owners = {
        "trt": trt,
        "engine": trt.ICudaEngine,
        "context": trt.IExecutionContext,
        "builder": trt.Builder,
        "network": trt.INetworkDefinition,
        "parser": trt.OnnxParser,
        "config": trt.IBuilderConfig,
        "runtime": trt.Runtime,
    }
    modules = (
        "par_model.backends.tensorrt",
        "par_model.backends.tensorrt_module",
        "par_model.export.build",
    )
    used = set()
    for module in modules:
        tree = ast.parse(Path(importlib.import_module(module).__file__).read_text())
        used |= {
            (_owner(node.value), node.attr)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and _owner(node.value) in owners
        }
    assert ("context", "execute_async_v3") in used
    assert ("parser", "parse_from_file") in used
    missing = [
        f"{owner}.{name}"
        for owner, name in sorted(used)
        if not name.startswith("__") and not hasattr(owners[owner], name)
    ]
    assert not missing


def _owner(node):
    """ "engine" for `engine` and for `self._engine`; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr.lstrip("_") if isinstance(node, ast.Attribute) else None

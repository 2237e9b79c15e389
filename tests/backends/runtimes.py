# SPDX-License-Identifier: Apache-2.0
"""Every runtime that this machine can load, and the rollouts that they are compared over."""

import copy
import dataclasses
import importlib.util
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from par_model.backends.static_graphs import StaticCache, StaticGraphs
from par_model.backends.torch_compiled import TorchCompiled
from par_model.backends.torch_eager import TorchEager
from par_model.export.untrained import untrained_checkpoint
from par_model.presets import preset

CPU = torch.device("cpu")
NUM_STEPS = 4
# "static" is the graphs of the contract run by PyTorch as they are: the buffers' logic alone.
# "tensorrt stand-in" is TensorRTRuntime on a binding that computes on the raw addresses it is
# given, with caches that the engines write in place, and with rows that are copied back.
RUNTIMES = (
    "eager",
    "static",
    "tensorrt stand-in",
    "tensorrt stand-in, copying",
    pytest.param("onnx", marks=pytest.mark.slow),
    pytest.param("openvino", marks=pytest.mark.slow),
    pytest.param("compiled", marks=pytest.mark.slow),
    pytest.param("compiled on gpu", marks=pytest.mark.gpu),
    pytest.param("tensorrt on gpu", marks=pytest.mark.gpu),
)


def small_checkpoint(**changes):
    """par_tiny with random weights; float32 on the CPU."""
    return untrained_checkpoint(dataclasses.replace(preset("par_tiny"), **changes))


def eager(checkpoint):
    return TorchEager(checkpoint, CPU, num_steps=NUM_STEPS)


def make_runtime(name, checkpoint, export_folder):
    """The runtime as PolicyGraphs; skips with the reason where this machine cannot load it.

    `export_folder` is a function that gives the fused float32 export of the checkpoint.
    """
    if name == "eager":
        return eager(checkpoint)
    if name == "static":
        return _torch_graphs(checkpoint, CPU, lambda module: module)
    if name == "onnx":
        require_onnx()
        from par_model.backends.onnx import OnnxRuntime

        return StaticGraphs(checkpoint, OnnxRuntime(export_folder()), eager(checkpoint))
    if name == "openvino":
        require_openvino()
        from par_model.backends.openvino import OpenVinoRuntime

        return StaticGraphs(checkpoint, OpenVinoRuntime(export_folder()), eager(checkpoint))
    if name == "compiled":
        if shutil.which("c++") is None and shutil.which("g++") is None:
            pytest.skip("torch.compile on a CPU needs a C++ compiler")
        return _torch_graphs(checkpoint, CPU, None)
    if name.startswith("tensorrt stand-in"):
        return _tensorrt_stand_in(checkpoint, in_place="copying" not in name)
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    # Outputs are compared to 1e-4.
    torch.backends.cudnn.allow_tf32 = False
    if name == "tensorrt on gpu":
        return _tensorrt(checkpoint, export_folder())
    return _torch_graphs(checkpoint, torch.device("cuda"), None)


def _tensorrt_stand_in(checkpoint, in_place):
    require_onnx()
    from par_model.backends.tensorrt import TensorRTRuntime
    from tests.backends.tensorrt_stand_in import TARGET, build_stand_in

    # Engines are read when they are loaded, and not again.
    with tempfile.TemporaryDirectory() as folder:
        binding = build_stand_in(checkpoint, NUM_STEPS, Path(folder), in_place)
        runtime = TensorRTRuntime(Path(folder), None, binding, TARGET, CPU)
    return StaticGraphs(checkpoint, runtime, eager(checkpoint))


def _tensorrt(checkpoint, export):
    pytest.importorskip("tensorrt", reason="pip install '.[trt]'")
    from par_model.backends.tensorrt import TensorRTRuntime
    from par_model.export.build import build_engines
    from par_model.graphs.manifest import Manifest

    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(export, folder, dirs_exist_ok=True)
        build_engines(Path(folder), Manifest.read(Path(folder)), print)
        runtime = TensorRTRuntime(Path(folder))
    return StaticGraphs(checkpoint, runtime, eager(checkpoint))


def require_onnx():
    for module in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (pip install '.[export]')")


def require_openvino():
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed (pip install '.[openvino]')")


def export_fused(checkpoint, folder):
    """The fused float32 export of a checkpoint, called as its folder; gives the folder."""
    require_onnx()
    from par_model.export.onnx_graphs import FUSED_OPSET, ExportRequest, export_checkpoint

    request = ExportRequest(checkpoint, folder.name, "0" * 64, "fp32", FUSED_OPSET, NUM_STEPS)
    export_checkpoint(request, folder, lambda line: None)
    return folder


def _torch_graphs(checkpoint, device, compile_module):
    sampler = checkpoint.config.sampling.action_sampler
    # The runtime moves the weights it is given to its device; others read them on the CPU.
    own = checkpoint if device == CPU else copy.deepcopy(checkpoint)
    runtime = TorchCompiled(own, device, torch.float32, sampler, NUM_STEPS, compile_module)
    return StaticGraphs(checkpoint, runtime, eager(checkpoint))


def poison(cache):
    """Large finite values in every row that was never written."""
    if isinstance(cache, StaticCache):
        for rows in cache.buffers.value.values():
            rows[:, :, cache.length :] = 1e4
    else:
        keys_values = cache.keys_values
        with torch.inference_mode():
            for rows in (keys_values.keys_YBHSD, keys_values.values_YBHSD):
                rows[:, :, :, keys_values.length :] = 1e4


def text_of(checkpoint):
    return checkpoint.instructions.embeddings_ITC[0].numpy().astype(np.float32)

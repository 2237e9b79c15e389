# SPDX-License-Identifier: Apache-2.0
"""Building: nothing is written without TensorRT; TensorRT-RTX compiles the graphs for an A100 on a
CPU, and refuses what is wrong."""

import dataclasses
import importlib.util

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from par_model import export_trt
from par_model.config import EncoderConfig, preset
from par_model.export.build import compile_graph, tensorrt_module
from par_model.export.engine_files import EngineKey, write_engine
from par_model.export.untrained import untrained_checkpoint


def test_without_tensorrt_the_line_that_installs_it_is_said():
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed here")
    with pytest.raises(ValueError, match=r"pip install tensorrt==11\.4\.0\.106"):
        tensorrt_module()


@pytest.mark.slow
def test_the_build_stage_exits_non_zero_and_writes_no_plan(export_copy, capsys):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed here")
    before = sorted(path.name for path in export_copy.iterdir())
    assert export_trt.main(["--out", str(export_copy), "--stage", "build"]) == 1
    assert "pip install tensorrt==11.4.0.106" in capsys.readouterr().err
    assert sorted(path.name for path in export_copy.iterdir()) == before


def test_a_folder_without_an_export_is_refused(tmp_path, capsys):
    assert export_trt.main(["--out", str(tmp_path), "--stage", "check"]) == 1
    assert "has no manifest.json; export the checkpoint with" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["manifest.json", "holiday.jpg"])
def test_a_folder_with_something_else_is_not_replaced(tmp_path, capsys, name):
    """A checkpoint has a manifest.json too."""
    (tmp_path / name).write_text('{"format_version": 1}')
    assert export_trt.main(["--preset", "par_tiny", "--out", str(tmp_path)]) == 1
    assert "exists and is not an earlier export" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_other_route_says_why_not(tmp_path, capsys):
    arguments = ["--preset", "par_tiny", "--out", str(tmp_path / "x")]
    assert export_trt.main([*arguments, "--route", "torch-tensorrt"]) == 1
    assert "the route torch-tensorrt is not offered" in capsys.readouterr().err


def test_an_empty_plan_is_never_written(tmp_path):
    key = EngineKey(
        "act", "0", "0", 1, "bf16", 24, 10, 6, 147, (), "tensorrt", "11.4", "8.0", None, None
    )
    with pytest.raises(ValueError, match="empty plan"):
        write_engine(tmp_path, key, b"")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx==1.7.1.116")


@pytest.mark.parametrize(
    ("precision", "names", "num_fused"),
    [
        ("bf16", ("step",), 2),
        pytest.param("bf16", ("prefill", "step", "act"), 2, marks=pytest.mark.slow),
        pytest.param("fp16", ("prefill", "step", "act"), 2, marks=pytest.mark.slow),
        pytest.param("fp32", ("prefill", "step", "act"), 0, marks=pytest.mark.slow),
    ],
)
def test_every_precision_compiles_for_an_a100(rtx, tmp_path, precision, names, num_fused):
    """Heads of 64 as in par_0_6b; two layers have four KV_CACHE_UPDATE and two attentions, which
    float32 spells out."""
    from par_model.export.check import compile_without_gpu
    from par_model.export.onnx_graphs import ExportRequest, export_checkpoint

    stack = EncoderConfig(width=128, depth=2, num_heads=2, mlp_ratio=2)
    config = dataclasses.replace(preset("par_tiny"), transformer=stack, image_encoder=stack)
    checkpoint = untrained_checkpoint(config)
    request = ExportRequest(checkpoint, "x", "0" * 64, precision, 24, 2, names)
    manifest = export_checkpoint(request, tmp_path / "x", print)
    lines = []
    assert compile_without_gpu(tmp_path / "x", manifest, names, lines.append)
    step = next(line for line in lines if "compile step" in line)
    assert "KV_CACHE_UPDATE 4" in step
    assert (f"ATTENTION_INPUT {num_fused}" in step) == (num_fused > 0)
    assert "PLUGIN" not in step


@pytest.mark.slow
def test_the_video_autoencoder_s_encode_graph(rtx, tmp_path):
    """Its attention has one head of 512, for which TensorRT has no fused kernel: bf16 compiles for
    an A100, and float32 is PyTorch's to 1e-4 (64 x 64 pixels, all channels)."""
    from par_model.backends.onnx import OnnxRuntime
    from par_model.export.check import compile_without_gpu
    from par_model.export.onnx_graphs import ExportRequest, export_checkpoint

    codec = preset("par_0_6b").codec
    config = dataclasses.replace(preset("par_tiny"), codec=codec, image_height=64, image_width=64)
    checkpoint = untrained_checkpoint(config)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    with torch.inference_mode():
        expected = checkpoint.codec.for_pictures().encode(torch.from_numpy(image)).numpy()
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        request = ExportRequest(checkpoint, "x", "0" * 64, precision, 24, 2, ("encode",))
        manifest = export_checkpoint(request, folder, print)
        if precision == "fp32":
            latent = OnnxRuntime(folder)._graphs["encode"].run({"image": image}, {})["latent"]
            np.testing.assert_allclose(latent, expected, atol=1e-4)
        else:
            lines = []
            assert compile_without_gpu(folder, manifest, ("encode",), lines.append)
            assert "ATTENTION" not in lines[0]


class TestCompilerRefuses:
    """Negative controls of the compiler itself."""

    def compile(self, rtx, tmp_path, nodes, inputs, outputs):
        graph = helper.make_graph(nodes, "g", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
        onnx.save(model, tmp_path / "g.onnx")
        return compile_graph(rtx, tmp_path / "g.onnx", "bf16", "SM80")

    def value(self, name, kind=TensorProto.BFLOAT16, shape=(1, 2, 8, 64)):
        return helper.make_tensor_value_info(name, kind, shape)

    def test_an_operator_that_it_does_not_know(self, rtx, tmp_path):
        node = helper.make_node("Unheard", ["x"], ["y"], domain="")
        with pytest.raises(ValueError, match=r"cannot parse g\.onnx"):
            self.compile(rtx, tmp_path, [node], [self.value("x")], [self.value("y")])

    def test_mixed_types(self, rtx, tmp_path):
        node = helper.make_node("Add", ["x", "f"], ["y"])
        inputs = [self.value("x"), self.value("f", TensorProto.FLOAT)]
        with pytest.raises(ValueError, match="cannot"):
            self.compile(rtx, tmp_path, [node], inputs, [self.value("y")])

    def test_a_cache_that_is_no_input_of_the_graph(self, rtx, tmp_path):
        copy = helper.make_node("Neg", ["cache"], ["copied"])
        write = helper.make_node(
            "TensorScatter", ["copied", "rows", "position"], ["out"], axis=2, mode="linear"
        )
        inputs = [
            self.value("cache"),
            self.value("rows", shape=(1, 2, 2, 64)),
            self.value("position", TensorProto.INT64, (1,)),
        ]
        with pytest.raises(ValueError, match="cannot"):
            self.compile(rtx, tmp_path, [copy, write], inputs, [self.value("out")])

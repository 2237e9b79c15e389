# SPDX-License-Identifier: Apache-2.0
"""The manifest is read back as it was written, and not otherwise."""

import dataclasses
import json

import pytest

from par_model.graphs.contract import GraphSpec, TensorSpec
from par_model.graphs.manifest import FILE_NAME, Manifest, _digest, sha256_of, verify_files

SPEC = GraphSpec(
    "step",
    (TensorSpec("k_cache_0", "bfloat16", (1, 2, 6, 8)),),
    (TensorSpec("k_cache_out_0", "bfloat16", (1, 2, 6, 8)),),
    (("k_cache_out_0", "k_cache_0"),),
)
MANIFEST = Manifest(
    1, "c", "ab" * 32, "par_tiny", "bf16", 24, "ddim", 10, 6, 147, {"torch": "2"}, (SPEC,), {}
)


def test_written_and_read(tmp_path):
    MANIFEST.write(tmp_path)
    assert Manifest.read(tmp_path) == MANIFEST


def test_edited(tmp_path):
    MANIFEST.write(tmp_path)
    path = tmp_path / FILE_NAME
    path.write_text(path.read_text().replace("bf16", "fp16"))
    with pytest.raises(ValueError, match="was changed after it was written"):
        Manifest.read(tmp_path)


def test_not_json(tmp_path):
    (tmp_path / FILE_NAME).write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("content", ["null", "[]", "[" * 100_000, "{}"], ids=lambda text: text[:4])
def test_another_kind_of_json(tmp_path, content):
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json .*export again"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("graphs", None),
        ("graphs", [{"name": "step"}]),
        ("graphs", [7]),
        ("files", [["step.onnx", "00"]]),
        ("colour", "red"),
    ],
    ids=str,
)
def test_sealed_but_no_description(tmp_path, name, value):
    """Whoever edits it may write its own sha256 anew, too."""
    content = dataclasses.asdict(MANIFEST) | {name: value}
    content["sha256"] = _digest(content)
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json .*export again"):
        Manifest.read(tmp_path)


def test_a_name_that_leads_out_of_the_folder(tmp_path):
    (tmp_path / "x.onnx").write_text("x")
    (tmp_path / "export").mkdir()
    manifest = dataclasses.replace(MANIFEST, files={"../x.onnx": sha256_of(tmp_path / "x.onnx")})
    with pytest.raises(ValueError, match="nothing outside it is read"):
        verify_files(tmp_path / "export", manifest)


def test_missing(tmp_path):
    with pytest.raises(ValueError, match=r"has no manifest\.json"):
        Manifest.read(tmp_path)


def test_of_another_contract(tmp_path):
    dataclasses.replace(MANIFEST, contract_version=99).write(tmp_path)
    with pytest.raises(ValueError, match="is of graph contract 99, this program's is 1"):
        Manifest.read(tmp_path)


def test_a_file_that_is_missing(tmp_path):
    manifest = dataclasses.replace(MANIFEST, files={"step.onnx": "00"})
    with pytest.raises(ValueError, match=r"lacks step\.onnx"):
        verify_files(tmp_path, manifest)


def test_a_graph_that_was_left_out():
    with pytest.raises(ValueError, match="no graph 'act'"):
        MANIFEST.graph("act")

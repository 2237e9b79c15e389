# SPDX-License-Identifier: Apache-2.0
"""A checkpoint comes back as it was, and every damage is refused by a sentence that names it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from par_model.checkpoint import MAX_SHARD_BYTES, _hashes, load_checkpoint, save_checkpoint
from par_model.load_policy import load_policy
from tests.model.fixtures import random_checkpoint_parts


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    return copy


def reseal(folder):
    """Make the manifest agree with the damaged files, as a careless editor would."""
    manifest = {"format_version": 1, "sha256": _hashes(folder)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_round_trip_is_exact(tiny_checkpoint):
    parts, loaded = random_checkpoint_parts("par_tiny"), load_checkpoint(tiny_checkpoint)
    assert loaded.config == parts["config"]
    for name, value in parts["model"].state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name
    assert loaded.instructions.texts == parts["instructions"].texts
    assert loaded.statistics.joint_names == parts["statistics"].joint_names
    assert (loaded.statistics.action_low == parts["statistics"].action_low).all()


def test_chunk_length_and_control_step_come_from_the_configuration(tmp_path):
    save_checkpoint(
        tmp_path / "long", **random_checkpoint_parts("par_tiny", num_actions=16, step_s=0.1)
    )
    spec = load_policy(tmp_path / "long", backend="eager", device="cpu").spec
    assert (spec.num_actions, spec.step_s) == (16, 0.1)


def test_a_configuration_without_a_control_step_means_20_hz(folder):
    """As the checkpoints that were written before the field."""
    values = json.loads((folder / "config.json").read_text())
    del values["step_s"]
    (folder / "config.json").write_text(json.dumps(values))
    reseal(folder)
    assert load_checkpoint(folder).config == random_checkpoint_parts("par_tiny")["config"]


def test_half_precision_halves_the_weights_and_rounds_them(tmp_path):
    parts = random_checkpoint_parts("par_tiny")
    save_checkpoint(tmp_path / "half", **parts, dtype=torch.bfloat16)
    loaded = load_checkpoint(tmp_path / "half")
    name, value = next(iter(parts["model"].named_parameters()))
    stored = loaded.model.state_dict()[name]
    assert stored.dtype == torch.float32
    assert torch.equal(stored, value.detach().bfloat16().float())


def test_shards_stay_under_16_mib(tmp_path):
    save_checkpoint(tmp_path / "small", **random_checkpoint_parts("par_small"))
    sizes = [path.stat().st_size for path in (tmp_path / "small").glob("*.safetensors")]
    assert len(sizes) > 1
    assert max(sizes) < 16 * 2**20
    assert MAX_SHARD_BYTES < 16 * 2**20
    load_checkpoint(tmp_path / "small")


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        load_checkpoint(tmp_path / "nowhere")


def test_missing_file(folder):
    (folder / "statistics.json").unlink()
    with pytest.raises(ValueError, match=r"lacks statistics\.json"):
        load_checkpoint(folder)


def test_changed_file(folder):
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(ValueError, match=r"config\.json is not the file that was saved"):
        load_checkpoint(folder)


def test_truncated_weights(folder):
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"weights.*sha256 differs"):
        load_checkpoint(folder)
    reseal(folder)
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(folder)


def edit_weights(folder, edit):
    path = next(folder.glob("*.safetensors"))
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    index = folder / "weights.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, path.name)}))
    reseal(folder)


def test_missing_tensor(folder):
    edit_weights(folder, lambda tensors: tensors.pop("model.transformer.norm.weight"))
    with pytest.raises(ValueError, match=r"lacks the tensors model\.transformer\.norm\.weight"):
        load_checkpoint(folder)


def test_extra_tensor(folder):
    edit_weights(folder, lambda tensors: tensors.update({"model.surprise": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"does not know: model\.surprise"):
        load_checkpoint(folder)


def test_tensor_of_another_shape(folder):
    edit_weights(
        folder, lambda tensors: tensors.update({"model.transformer.norm.weight": torch.zeros(3)})
    )
    with pytest.raises(ValueError, match=r"norm\.weight must have shape \[32\], got \[3\]"):
        load_checkpoint(folder)


def test_unknown_configuration_field(folder):
    config = json.loads((folder / "config.json").read_text())
    config["colour"] = "red"
    (folder / "config.json").write_text(json.dumps(config))
    reseal(folder)
    with pytest.raises(ValueError, match=r"unknown fields \['colour'\]"):
        load_checkpoint(folder)


def test_other_format_version(folder):
    (folder / "manifest.json").write_text(json.dumps({"format_version": 99, "sha256": {}}))
    with pytest.raises(ValueError, match="format version 99"):
        load_checkpoint(folder)


def test_saving_deletes_nothing_but_a_checkpoint(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="own exists and is not a checkpoint; a checkpoint replac"):
        save_checkpoint(tmp_path / "own", **random_checkpoint_parts("par_tiny"))
    assert [path.name for path in tmp_path.rglob("*")] == ["own", "thesis.txt"]


def test_saving_replaces_the_whole_folder(folder):
    (folder / "stray").write_text("x")
    save_checkpoint(folder, **random_checkpoint_parts("par_tiny"))
    assert not (folder / "stray").exists()
    load_checkpoint(folder)

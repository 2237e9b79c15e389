# SPDX-License-Identifier: Apache-2.0
"""NOVA folders to checkpoints. Published size: 646 tensors, 644,194,320 parameters with the mixer
(644,118,544 without); Table 1's 608.7 / 32.8 / 0.6 / 21.1 M, total 663.3 M within 0.1 % of 663.2.
Files are read at width 64, 2 + 2 blocks, 64 x 96 pixels: 24 image tokens, 6 frame tokens."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import diffusers
import pytest
import torch

from par_model import nova_weights
from par_model.checkpoint import load_checkpoint
from par_model.convert_nova import main as convert
from par_model.describe import PAPER_MILLIONS, parameter_table
from par_model.frame_head import patchify
from par_model.load_policy import load_policy
from par_model.model import PARModel
from par_model.nova_config import _NUM_HEADS, diffusion_config, model_config
from par_model.nova_weights import DROPPED, NEW, nova_name, nova_shapes, our_name
from par_model.presets import preset
from tests.model.nova_folder import (
    DDPM_CONFIG,
    FLOW_CONFIG,
    PUBLISHED,
    SMALL,
    nova_config,
    num_parameters,
    random_tensors,
    transformer_shapes,
    write_folder,
    write_text_encoder,
)


@pytest.fixture(autouse=True)
def _small_width(monkeypatch):
    monkeypatch.setitem(_NUM_HEADS, SMALL.width, 4)


@pytest.fixture
def tensors():
    return random_tensors(transformer_shapes(SMALL))


def on_meta(config):
    with torch.device("meta"):
        return PARModel(config)


# ---- the published size, by names and shapes alone


def test_published_file_is_646_tensors_of_644_194_320_parameters():
    shapes = transformer_shapes(PUBLISHED)
    assert len(shapes) == 646
    assert num_parameters(shapes) == 644_194_320
    without = dataclasses.replace(PUBLISHED, mixer_rank=0)
    assert num_parameters(transformer_shapes(without)) == 644_118_544


@pytest.mark.parametrize("name", ["par_0_6b", "nova_d48w1024_osp480"])
@pytest.mark.parametrize("mixer_rank", [24, 0, -1])
def test_our_full_size_expects_exactly_the_published_tensors(name, mixer_rank):
    config = dataclasses.replace(preset(name), mixer_rank=mixer_rank)
    published = transformer_shapes(dataclasses.replace(PUBLISHED, mixer_rank=max(0, mixer_rank)))
    if mixer_rank < 0:
        published |= {
            "video_encoder.mixer.proj.weight": (2048, 1024),
            "video_encoder.mixer.proj.bias": (2048,),
        }
    dropped = () if config.motion_tokens else DROPPED
    kept = {name: shape for name, shape in published.items() if not name.startswith(dropped)}
    model = on_meta(config)
    assert nova_shapes(model, config) == kept
    new = [name for name in model.state_dict() if nova_name(name) is None]
    assert all(name.startswith(NEW) for name in new)
    assert bool(new) == (config.num_actions > 0)


def test_names_go_both_ways():
    for theirs in transformer_shapes(SMALL):
        ours = our_name(theirs)
        assert ours is not None
        assert nova_name(ours) == theirs


def test_table_1():
    table = parameter_table(on_meta(preset("par_0_6b")))
    assert table == {
        "causal_transformer": 608_732_160,
        "frame_detokenizer": 32_844_816,
        "action_tokenizer": 596_032,
        "action_detokenizer": 21_147_656,
        "total": 663_320_664,
    }
    for name, count in table.items():
        rounded = round(count / 1e6, 1)
        assert rounded == PAPER_MILLIONS[name] or name == "total"
    assert abs(table["total"] / (PAPER_MILLIONS["total"] * 1e6) - 1) < 1e-3


# ---- files


@pytest.mark.parametrize("kind", ["safetensors", "sharded", "fp16", "bin"])
@pytest.mark.parametrize("mixer_rank", [4, 0])
def test_every_kind_of_file_gives_the_same_weights(tmp_path, kind, mixer_rank):
    size = dataclasses.replace(SMALL, mixer_rank=mixer_rank)
    dtype = torch.float16 if kind == "fp16" else torch.float32
    tensors = random_tensors(transformer_shapes(size), dtype)
    folder = write_folder(tmp_path / "nova", nova_config(size), tensors, kind=kind)
    assert convert([str(folder), "--out", str(tmp_path / "out")]) == 0
    checkpoint = load_checkpoint(tmp_path / "out")
    state = checkpoint.model.state_dict()
    used = [name for name in tensors if not name.startswith(DROPPED)]
    for name in used:
        value = tensors[name].float()
        if name in (
            "image_encoder.patch_embed.proj.weight",
            "image_decoder.patch_embed.proj.weight",
        ):
            value = value.permute(0, 2, 3, 1).flatten(1)
        assert torch.equal(state[our_name(name)], value), name
    assert len(used) + len(checkpoint.training["new"]) == len(state)
    assert sorted(checkpoint.training["dropped"]) == sorted(
        name for name in tensors if name.startswith(DROPPED)
    )
    assert checkpoint.config.mixer_rank == mixer_rank
    assert (checkpoint.model.mixer is None) == (mixer_rank == 0)


def test_mixer_is_found_in_the_weights_where_the_configuration_is_silent(tmp_path, tensors):
    config = nova_config(SMALL)
    del config["video_mixer_rank"]
    folder = write_folder(tmp_path / "nova", config, tensors)
    assert model_config(folder, folder / "vae", "par").mixer_rank == 4


def test_patch_matrices_do_what_the_convolutions_did(tmp_path, tensors):
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), tensors)
    config = model_config(folder, folder / "vae", "nova")
    model = PARModel(config)
    nova_weights.load_nova_transformer(folder, model, config)
    latents = torch.randn(2, 4, 8, 12)
    by_convolution = torch.nn.functional.conv2d(
        latents,
        tensors["image_encoder.patch_embed.proj.weight"],
        tensors["image_encoder.patch_embed.proj.bias"],
        stride=2,
    )
    ours = model.image_encoder.embed(patchify(latents, 2))
    assert torch.allclose(ours, by_convolution.flatten(2).transpose(1, 2), atol=1e-5)


def test_report_names_what_is_new_and_what_is_dropped(tmp_path, tensors, capsys):
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), tensors)
    assert convert([str(folder), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    num_dropped = sum(name.startswith(DROPPED) for name in tensors)
    assert f"used: {len(tensors) - num_dropped} tensors" in printed
    assert "new: tokenizer.begin_of_action [8, 64]" in printed
    assert printed.count("dropped: motion_embed.") == num_dropped == 8


def test_resolution_changes_no_weight(tmp_path, tensors):
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), tensors)
    native, p256 = (
        model_config(folder, folder / "vae", "par", resolution) for resolution in (None, "p256")
    )
    assert (native.image_height, native.image_width) == (64, 96)
    assert (p256.image_height, p256.num_frame_tokens) == (256, 64)
    assert nova_shapes(on_meta(native), native) == nova_shapes(on_meta(p256), p256)


def test_what_the_paper_leaves_open_is_chosen_when_converting(tmp_path, tensors):
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), tensors)
    chosen = ["--num-slots", "51", "--overflow", "episode", "--observation-mode", "clip"]
    assert convert([str(folder), "--out", str(tmp_path / "out"), *chosen]) == 0
    config = load_checkpoint(tmp_path / "out").config
    assert (config.num_slots, config.sampling.context_slots) == (51, 51)
    assert (config.overflow, config.observation_mode) == ("episode", "clip")
    assert load_policy(tmp_path / "out", device="cpu").spec.observation_mode == "clip"


def test_actions_are_v_and_the_papers_noise_is_a_choice(tmp_path, tensors):
    """Frames keep the spacing of NOVA's file, "leading" where it names none; actions do not."""
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), tensors)
    for words, prediction, sampler in (
        ([], "v_prediction", ("ddim", 10)),
        (["--action-prediction", "noise"], "epsilon", ("ddpm", 100)),
    ):
        assert convert([str(folder), "--out", str(tmp_path / "out"), *words]) == 0
        config = load_checkpoint(tmp_path / "out").config
        action, sampling = config.action_diffusion, config.sampling
        assert (action.prediction, action.spacing) == (prediction, "trailing")
        assert (sampling.action_sampler, sampling.action_num_steps) == sampler
        assert config.frame_diffusion.spacing == "leading"
    write_scheduler(folder / "scheduler", DDPM_CONFIG | {"timestep_spacing": "linspace"})
    assert model_config(folder, folder / "vae", "nova").frame_diffusion.spacing == "linspace"


ABLATED = {
    "noar": ("video_encoder.blocks.", "video_encoder.norm."),
    "discrete": ("image_decoder.",),
}


@pytest.mark.parametrize("ablation", ABLATED)
def test_ablations_start_from_the_weights_that_they_have_a_place_for(
    tmp_path, tensors, capsys, ablation
):
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), tensors)
    assert convert([str(folder), "--out", str(tmp_path / "out"), "--ablation", ablation]) == 0
    checkpoint = load_checkpoint(tmp_path / "out")
    dropped = set(checkpoint.training["dropped"])
    assert dropped == {name for name in tensors if name.startswith(DROPPED + ABLATED[ablation])}
    state = checkpoint.model.state_dict()
    kept = "image_encoder.blocks.0.mlp.fc1.weight"
    assert torch.equal(state[kept], tensors[kept])
    assert ("frame_decoder.mlp.fc1.weight" in checkpoint.training["new"]) == (
        ablation == "discrete"
    )
    assert f"PAR-{'NoAR' if ablation == 'noar' else 'Discrete'}" in capsys.readouterr().out
    policy = load_policy(tmp_path / "out", backend="eager", device="cpu")
    assert policy.spec.num_actions == 8


def test_a_missing_block_is_no_ablation(tmp_path, tensors, capsys):
    few = {name: v for name, v in tensors.items() if not name.startswith("video_encoder.blocks.1")}
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), few)
    assert_refused(
        folder, tmp_path, capsys, "lacks the tensor video_encoder.blocks.1.attn.proj.bias"
    )


def test_choices_of_the_policy_are_refused_for_the_video_model(tmp_path, tensors, capsys):
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), tensors)
    arguments = [str(folder), "--out", str(tmp_path / "out"), "--form", "nova"]
    assert convert([*arguments, "--overflow", "slide"]) == 1
    assert "leave them out with --form nova" in capsys.readouterr().err


def test_a_folder_that_diffusers_wrote_encodes_as_diffusers_does(tmp_path, tensors):
    """An all-2D autoencoder (NOVA's picture models have one), saved by diffusers' own class."""
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), tensors)
    shutil.rmtree(folder / "vae")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        scaling_factor=0.13,
    ).eval()
    theirs.save_pretrained(folder / "vae")
    assert convert([str(folder), "--out", str(tmp_path / "out")]) == 0
    codec = load_checkpoint(tmp_path / "out").codec
    pictures = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        mean = theirs.encode(pictures.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    assert (codec.encode(pictures) - 0.13 * mean).abs().max() < 1e-5


def test_instructions_are_embedded_once_as_nova_does(tmp_path, tensors):
    """Phi's hidden states of the prompt's own tokens, then the learned rows; no text encoder is
    needed afterwards."""
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), tensors)
    phi = write_text_encoder(folder)
    texts = ["push the cube", "stack"]
    arguments = [str(folder), "--out", str(tmp_path / "out")]
    arguments += [part for text in texts for part in ("--instruction", text)]
    assert convert(arguments) == 0
    table = load_checkpoint(tmp_path / "out").instructions
    assert table.texts == tuple(texts)
    with torch.no_grad():
        # Padded as NOVA pads: Phi is causal, so what follows the text changes nothing.
        hidden = phi.model(torch.tensor([[1, 2, 3, 0, 0]])).last_hidden_state[0]
    rows = table.embedding("push the cube")
    assert torch.allclose(rows[:3], hidden[:3], atol=1e-5)
    assert torch.equal(rows[3:], tensors["text_embed.weight"][3:5])
    shutil.rmtree(folder)
    loaded = subprocess.run(
        [sys.executable, "-c", DEPLOYMENT, str(tmp_path / "out")],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert loaded == ["(8,", "8)", "[]"]


# A control step in a fresh process: the shape of its actions, and the text encoders it imported.
DEPLOYMENT = """
import sys
from pathlib import Path
import numpy as np
from par_model.interface import Observation
from par_model.load_policy import load_policy
policy = load_policy(Path(sys.argv[1]), backend="eager", device="cpu")
policy.reset("stack", seed=0)
picture = np.zeros((policy.spec.image_height, policy.spec.image_width, 3), np.uint8)
policy.observe(Observation(picture, np.zeros(8), policy.spec.joint_names, 0.0, None))
print(policy.act().joint_positions.shape)
print([name for name in sys.modules if name.startswith("transformers.models.phi")])
"""


# ---- schedulers


def write_scheduler(folder, values):
    (folder / "scheduler_config.json").write_text(json.dumps(values))
    return folder


def test_scheduler_files_are_read(tmp_path):
    ddpm = diffusion_config(write_scheduler(tmp_path, DDPM_CONFIG | {"beta_start": 0.001}))
    assert (ddpm.schedule, ddpm.steps_offset, ddpm.beta_start, ddpm.clip_range) == (
        "squaredcos_cap_v2", 1, 0.001, None
    )  # fmt: skip
    flow = diffusion_config(write_scheduler(tmp_path, FLOW_CONFIG))
    assert (flow.schedule, flow.flow_shift) == ("flow_matching", 3.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("prediction_type", "v_prediction"), ("variance_type", "learned"), ("thresholding", True)],
)
def test_unknown_scheduler_settings_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=name):
        diffusion_config(write_scheduler(tmp_path, DDPM_CONFIG | {name: value}))


# ---- bad input: one sentence each, exit code 1, no traceback


def missing_config(folder, config, tensors):
    (folder / "transformer" / "config.json").unlink()


def truncated(folder, config, tensors):
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def no_weights(folder, config, tensors):
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()


def no_vae(folder, config, tensors):
    (folder / "vae" / "config.json").unlink()


CHANGED_FILES = {
    "no config": (missing_config, "config.json is missing"),
    "truncated": (truncated, "cannot be read"),
    "no weights": (no_weights, "holds no weights"),
    "no autoencoder": (no_vae, "config.json is missing"),
}


@pytest.mark.parametrize(("damage", "sentence"), CHANGED_FILES.values(), ids=CHANGED_FILES)
def test_damaged_folder(tmp_path, tensors, capsys, damage, sentence):
    config = nova_config(SMALL)
    folder = write_folder(tmp_path / "nova", config, tensors)
    damage(folder, config, tensors)
    assert_refused(folder, tmp_path, capsys, sentence)


CHANGED_VALUES = {
    "unknown arch": ({"arch": ["vit_huge", "vit_d2w64", "mlp_d1w48"]}, "'vit_huge' is unknown"),
    "unknown width": ({"arch": ["vit_d2w63", "vit_d2w64", "mlp_d1w48"]}, "'vit_d2w63' is unknown"),
    "rotary": ({"rotary_pos_embed": True}, "rotary_pos_embed is true"),
    "no text": ({"text_token_dim": None}, "text_token_dim is not set"),
    "base size": ({"image_base_size": [30, 48]}, "do not fit image_size"),
}


@pytest.mark.parametrize(("values", "sentence"), CHANGED_VALUES.values(), ids=CHANGED_VALUES)
def test_wrong_configuration(tmp_path, tensors, capsys, values, sentence):
    folder = write_folder(tmp_path / "nova", nova_config(SMALL) | values, tensors)
    assert_refused(folder, tmp_path, capsys, sentence)


CHANGED_TENSORS = {
    "wrong shape": (
        lambda t: t | {"text_embed.proj.weight": torch.zeros(64, 25)},
        r"text_embed.proj.weight must have shape \[64, 24\], got \[64, 25\]",
    ),
    "missing": (
        lambda t: {name: v for name, v in t.items() if name != "mask_embed.bos_token"},
        "lacks the tensor mask_embed.bos_token",
    ),
    "left over": (
        lambda t: t | {"video_encoder.rope.weight": torch.zeros(1)},
        "has the tensor video_encoder.rope.weight",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), CHANGED_TENSORS.values(), ids=CHANGED_TENSORS)
def test_wrong_tensors(tmp_path, tensors, capsys, change, sentence):
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), change(tensors))
    assert_refused(folder, tmp_path, capsys, sentence)


def test_a_bin_file_that_holds_code_is_not_run(tmp_path, tensors, capsys):
    folder = write_folder(tmp_path / "nova", nova_config(SMALL), tensors, kind="bin")
    marker = tmp_path / "was_run"
    torch.save(RunsCode(marker), folder / "transformer" / "diffusion_pytorch_model.bin")
    assert_refused(folder, tmp_path, capsys, "cannot be read as plain tensors")
    assert not marker.exists()


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def assert_refused(folder, tmp_path, capsys, sentence):
    assert convert([str(folder), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("par_model.convert_nova: ")
    assert printed.strip().count("\n") == 0
    assert re.search(sentence, printed), printed
    assert not (tmp_path / "out").exists()

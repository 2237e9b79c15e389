# SPDX-License-Identifier: Apache-2.0
"""From `train forward` to a policy whose surprise it judges; par_tiny, episodes of noise."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from par_model.checkpoint import load_checkpoint
from par_model.forward_model import StoredForwardModel
from par_model.frame_codec import codec_fingerprint
from par_model.load_policy import Deployment, load_policy
from par_model.policy import PARPolicy
from par_model.release import Additions, release
from par_model.simulation.tasks import TASKS
from par_model.surprise import FORWARD_FILE, forward_hash, surprise
from par_model.train import main
from tests.model.fixtures import random_observation
from tests.training.fixtures import record_noise

SENTENCE = TASKS["PushCube"].instruction
TINY = ["--preset", "par_tiny", "--variants", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, run/ of `train all`, forward/ of `train forward`, and released/ with both."""
    folder = tmp_path_factory.mktemp("forward")
    record_noise(folder / "data", {3: 20, 24: 26}, instruction=SENTENCE)
    words = ["all", "--data", str(folder / "data"), "--out", str(folder / "run"), *TINY]
    more = ["--steps", "1", "--evaluation-episodes", "0", "--codec-steps", "2", "--probe-tasks"]
    assert main([*words, *more, "--steps-after-success", "all"]) == 0
    assert forward(folder, "--out", str(folder / "forward")) == 0
    additions = Additions(forward_model=folder / "forward")
    assert release(folder / "run/policy/checkpoint", folder / "released", additions) == []
    return folder


def forward(folder: Path, *more: str) -> int:
    words = ["--data", str(folder / "data"), "--codec", str(folder / "run/codec")]
    latents = ["--latents", str(folder / "run/latents")]
    return main(["forward", *words, *latents, *TINY, "--steps", "2", *more])


def observed(policy: PARPolicy, num: int) -> tuple[list, np.ndarray]:
    """The misfit of each of `num` observations, and the last chunk's targets."""
    policy.reset(policy.spec.instructions[0], 0)
    world, executed, found = np.random.default_rng(0), None, []
    for n in range(num):
        policy.foretell()
        policy.observe(random_observation(world, policy.spec, 0.4 * n, executed))
        found.append(policy.misfit())
        executed = policy.act().joint_positions
    return found, executed


def test_the_file_says_how_it_was_made(made: Path) -> None:
    stored = StoredForwardModel.read(made / "forward" / FORWARD_FILE)
    assert stored.training["data"] == {"data": 2}
    assert stored.training["config"]["num_steps"] == 2
    assert set(stored.training["held_out"]) >= {"squared_error", "squared_change"}
    assert "train" in stored.training["command"]


def test_it_judges_pictures_in_place_of_the_frame_head_and_changes_no_action(made: Path) -> None:
    """par_tiny remembers 6 observations: the last of 9 come after the context was rebased."""
    with_one = load_policy(made / "released", backend="eager", device="cpu")
    found, chunk = observed(with_one, 9)
    plain = made / "plain"
    shutil.copytree(made / "released", plain)
    (plain / FORWARD_FILE).unlink()
    without, same_chunk = observed(load_policy(plain, backend="eager", device="cpu"), 9)
    np.testing.assert_array_equal(chunk, same_chunk)
    assert found[0] is None
    assert without[0] is None
    model = StoredForwardModel.read(made / "released" / FORWARD_FILE).model
    codec = load_checkpoint(made / "released").codec
    world, executed, before = np.random.default_rng(0), None, None
    for n, (one, other) in enumerate(zip(found, without, strict=True)):
        now = random_observation(world, with_one.spec, 0.4 * n, executed)
        executed = np.zeros((with_one.spec.num_actions, len(with_one.spec.joint_names)))
        latent = codec.encode(torch.from_numpy(now.image[None])).numpy()
        if before is not None:
            assert one.frame_errors is None
            assert other.forward_errors is None
            assert (one.joints_off, one.still_motion) == (other.joints_off, other.still_motion)
            joints = (before[1], now.measured_joint_positions)
            expected = model.errors(before[0], latent, *joints)
            np.testing.assert_allclose(one.forward_errors, expected, rtol=1e-4, atol=1e-5)
            assert np.isfinite(surprise(one))
        before = (latent, now.measured_joint_positions)


def test_release_keeps_it_while_the_codec_stays_the_same(made: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert release(made / "released", again, Additions(notes=("It is tiny.",))) == []
    assert forward_hash(again) == forward_hash(made / "released") is not None
    words = ["--data", str(made / "data"), *TINY, "--codec-steps", "1", "--probe-tasks"]
    assert main(["codec", *words, "--out", str(tmp_path / "codec"), "--seed", "1"]) == 0
    latents = ["--codec", str(tmp_path / "codec"), "--data", str(made / "data"), *TINY]
    assert main(["latents", *latents]) == 0
    assert main(["forward", *latents, "--steps", "1", "--out", str(tmp_path / "other")]) == 0
    with pytest.raises(ValueError, match="was trained for another codec, picture size or arm"):
        release(made / "released", again, Additions(forward_model=tmp_path / "other"))
    with pytest.raises(ValueError, match=r"holds no forward_model.safetensors; give the folder"):
        release(made / "released", again, Additions(forward_model=tmp_path))
    assert forward_hash(again) == forward_hash(made / "released")
    shutil.copyfile(tmp_path / "other" / FORWARD_FILE, again / FORWARD_FILE)
    with pytest.raises(ValueError, match=r"was trained for another codec.*, or remove it"):
        load_policy(again, backend="eager", device="cpu")
    (left_out,) = release(again, tmp_path / "third", Additions())
    assert "was trained for another codec" in left_out
    assert forward_hash(tmp_path / "third") is None


def test_release_rounds_the_codec_and_the_model_goes_with_it(made: Path) -> None:
    """From the training again, too, whose codec is not rounded, beside the released one."""
    fingerprints = {
        name: codec_fingerprint(load_checkpoint(made / name).codec)
        for name in ("run/policy/checkpoint", "released")
    }
    assert len(set(fingerprints.values())) == 2
    trained, released = (
        StoredForwardModel.read(made / name / FORWARD_FILE) for name in ("forward", "released")
    )
    assert (trained.codec, released.codec) == tuple(fingerprints.values())
    assert trained.training == released.training
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(tensor, released.model.state_dict()[name])
    before = forward_hash(made / "released")
    assert release(made / "run/policy/checkpoint", made / "released", Additions()) == []
    assert forward_hash(made / "released") == before


def test_another_order_of_the_joints_is_refused(made: Path, tmp_path: Path) -> None:
    """A file that does not say the order is taken."""
    stored = StoredForwardModel.read(made / "released" / FORWARD_FILE)
    assert stored.joint_names == load_checkpoint(made / "released").statistics.joint_names
    folder = tmp_path / "released"
    shutil.copytree(made / "released", folder)
    other = dataclasses.replace(stored, joint_names=stored.joint_names[::-1])
    other.write(folder / FORWARD_FILE)
    with pytest.raises(ValueError, match="was trained for another codec, picture size or arm"):
        load_policy(folder, backend="eager", device="cpu")
    dataclasses.replace(stored, joint_names=()).write(folder / FORWARD_FILE)
    load_policy(folder, backend="eager", device="cpu")


def test_it_is_read_before_a_runtime_casts_the_codec(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the runtimes of a GPU do, in place and to bfloat16."""

    def cast(deployment: Deployment, backend: str) -> tuple[str, object]:
        deployment.checkpoint.codec.to(torch.bfloat16)
        return backend, SimpleNamespace(name="cast")

    monkeypatch.setattr("par_model.load_policy._chosen_graphs", cast)
    assert load_policy(made / "released", backend="eager", device="cpu").backend == "cast"


@pytest.mark.parametrize("damage", ["cut", "text", "sizes", "huge"])
def test_a_damaged_file_is_a_sentence(made: Path, tmp_path: Path, damage: str) -> None:
    file = tmp_path / FORWARD_FILE
    whole = (made / "forward" / FORWARD_FILE).read_bytes()
    if damage == "cut":
        file.write_bytes(whole[:-100])
    elif damage == "text":
        file.write_text("no tensors")
    else:
        # The same length, so that the rest stays where it is.
        words = b'\\"width\\": 128', b'\\"width\\": ' + (b"129" if damage == "sizes" else b"9e9")
        assert whole.count(words[0]) == 1
        file.write_bytes(whole.replace(*words))
    with pytest.raises(ValueError, match=r"is no forward model \(.*train it again with"):
        StoredForwardModel.read(file)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--steps", "0"], "--steps must be above 0, got 0"),
        (["--learning-rate", "0"], "--learning-rate must be above 0, got 0"),
        (["--latents", "nowhere"], "run `python -m par_model.train latents` with the same --codec"),
        (["--learning-rate", "0.5"], "holds a training with other settings or data"),
    ],
)
def test_what_it_refuses(
    made: Path, more: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = forward(made, "--out", str(made / "forward"), *more)
    except SystemExit as stopped:
        code = stopped.code
    assert code != 0
    assert sentence in " ".join(capsys.readouterr().err.split())

# SPDX-License-Identifier: Apache-2.0
"""Whatever a checkpoint folder's JSON files say, loading it is quick, and fails by one sentence.

300 seeded damages of a par_tiny checkpoint, the manifest made to agree with each where that is
another file; a damaged folder has at most 5 s. What nobody may skip is tried one by one before.
"""

import copy
import json
import random
import shutil
import time

import pytest

from par_model.checkpoint import _hashes, load_checkpoint

INDEX = "weights.safetensors.index.json"
WEIGHTS = "weights.safetensors"
FILES = (
    "camera.json", "config.json", "instructions.json", "manifest.json", "statistics.json",
    "training.json", INDEX,
)  # fmt: skip
NUM_DAMAGES = 300
# Of processor time: the machine may be busy.
TIMEOUT_S = 5.0
ODD_VALUES = (
    None, True, -1, 0, 1, 7, 10_000_000, 10**300, -0.5, 1e308, float("nan"), float("inf"), "", "8",
    "../../etc/passwd", "\ud800", "x" * 5000, [], [[]], [None], ["a", "a"], {}, {"a": {}},
)  # fmt: skip


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    copied = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copied)
    return copied


def reseal(folder):
    """The manifest of an attacker, or of a careless editor: it agrees with the files."""
    manifest = {"format_version": 1, "sha256": _hashes(folder)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit(folder, name, change):
    """Change one JSON file's content in place; the manifest agrees afterwards."""
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    if name != "manifest.json":
        reseal(folder)


def refusal(folder):
    """What loading it says; None where it loads."""
    try:
        load_checkpoint(folder)
    except ValueError as error:
        return str(error)
    return None


def test_a_manifest_that_lists_nothing_verifies_nothing(folder):
    edit(folder, "manifest.json", lambda manifest: manifest.update(sha256={}))
    with pytest.raises(ValueError, match=r"does not list 'config\.json'"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", sorted({*FILES, WEIGHTS} - {"manifest.json"}))
def test_every_file_that_is_read_is_listed(folder, name):
    edit(folder, "manifest.json", lambda manifest: manifest["sha256"].pop(name))
    with pytest.raises(ValueError, match=f"does not list '{name}'"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["../x.safetensors", "/tmp/x.safetensors", "..", "a/../x"])
def test_an_index_does_not_lead_out_of_the_folder(folder, name):
    outside = folder.parent / "x.safetensors"
    shutil.copy(next(folder.glob("*.safetensors")), outside)

    def redirect(index):
        index["weight_map"] = dict.fromkeys(index["weight_map"], name)

    edit(folder, INDEX, redirect)
    edit(folder, "manifest.json", lambda manifest: manifest["sha256"].update({name: "0" * 64}))
    with pytest.raises(ValueError, match="nothing outside it is read"):
        load_checkpoint(folder)


def test_a_link_out_of_the_folder_is_not_followed(folder):
    path = folder / "config.json"
    outside = folder.parent / "config.json"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(ValueError, match="symbolic link out of its folder"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (("codec", "layers_per_block"), 10_000_000, "from 1 to 16, got|is 10000000; it must be"),
        (("transformer", "depth"), 10_000_000, "a whole number from 1 to 256"),
        (("transformer", "width"), 0, "a whole number from 1 to 16384"),
        (("transformer", "num_heads"), 0, "a whole number from 1 to 256"),
        (("num_text_tokens",), 10**12, "a whole number from 0 to 10000"),
        (("num_slots",), 10**9, "a whole number from 1 to 10000"),
        (("frame_patch",), -2, "a whole number from 1 to 64"),
        (("codec", "stride"), 0, "a whole number from 1 to 64"),
        (("image_height",), 1e308, "a whole number from 1 to 8192"),
        (("sampling", "action_num_steps"), 10**9, "a whole number from 1 to 1000"),
        (("frame_diffusion", "beta_end"), float("nan"), "a number from 0 to 1"),
        (("transformer", "depth"), True, "a whole number from"),
        (("position_mode",), "spiral", "one of 'ape'"),
        (("autoregressive",), "false", "true or false"),
        (("codec", "channels"), [4] * 99, "a list of 1 to 8 values"),
        (("codec", "channels"), [16, -32], r"channels\[1\] is -32"),
    ],
    ids=str,
)
def test_a_size_beyond_all_use_is_refused_at_once(folder, place, value, sentence):
    def change(config):
        for name in place[:-1]:
            config = config[name]
        config[place[-1]] = value

    edit(folder, "config.json", change)
    started_s = time.process_time()
    with pytest.raises(ValueError, match=sentence) as caught:
        load_checkpoint(folder)
    assert ".".join(place) in str(caught.value)
    assert time.process_time() - started_s < TIMEOUT_S


def test_the_largest_allowed_model_takes_no_memory_before_its_weights_are_seen(folder):
    """A stack of 256 blocks of width 16,384 has 800 billion weights."""

    def change(config):
        for stack in ("transformer", "image_encoder"):
            config[stack] |= {"width": 16_384, "depth": 256, "num_heads": 256}

    edit(folder, "config.json", change)
    started_s = time.process_time()
    with pytest.raises(ValueError, match="lacks the tensors"):
        load_checkpoint(folder)
    assert time.process_time() - started_s < TIMEOUT_S


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{}", b"7", b"\xff\x00", b"{" * 9, b"[" * 10**5, b'{"a":' * 10**5],
    ids=lambda content: repr(content[:8]),
)
def test_a_file_of_another_kind_is_one_sentence(folder, name, content):
    (folder / name).write_bytes(content)
    if name != "manifest.json":
        reseal(folder)
    # Every field of the camera's rule has a default, and a record of nothing is a record.
    is_whole = content == b"{}" and name in ("camera.json", "training.json")
    assert (refusal(folder) is None) is is_whole


@pytest.mark.parametrize("name", [*FILES, WEIGHTS])
def test_a_folder_in_a_file_s_place_is_one_sentence(folder, name):
    path = folder / name
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
        load_checkpoint(folder)


def test_statistics_of_another_chunk_are_refused(folder):
    def change(statistics):
        for name in ("action_low", "action_high"):
            statistics[name] = statistics[name][:-1]

    edit(folder, "statistics.json", change)
    with pytest.raises(ValueError, match=r"chunks of \[7, 8\] numbers and config.json of \[8, 8\]"):
        load_checkpoint(folder)


def places(value, path=()):
    """Every place in parsed JSON, as keys and indices from the root; of a long list the ends."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        for index in {0, len(value) - 1}:
            yield from places(value[index], (*path, index))


def damaged(content, rng):
    """A copy in which one place has another value, is gone, is there twice or is renamed."""
    content = copy.deepcopy(content)
    place = rng.choice(list(places(content)))
    if not place:
        return rng.choice(ODD_VALUES)
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    kind = rng.choice(("other", "other", "other", "gone", "renamed"))
    if kind == "gone":
        del parent[place[-1]]
    elif kind == "renamed" and isinstance(parent, dict):
        parent["renamed"] = parent.pop(place[-1])
    else:
        parent[place[-1]] = rng.choice(ODD_VALUES)
    return content


def test_every_damage_is_one_sentence_or_harmless(tiny_checkpoint, tmp_path):
    """Seeds 0 to 299; the one that fails is named."""
    originals = {name: json.loads((tiny_checkpoint / name).read_text()) for name in FILES}
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_checkpoint, folder)
    num_refused = 0
    for seed in range(NUM_DAMAGES):
        rng = random.Random(seed)
        name = rng.choice((*FILES, "config.json", "statistics.json"))
        (folder / name).write_text(json.dumps(damaged(originals[name], rng)))
        if name != "manifest.json":
            reseal(folder)
        started_s = time.process_time()
        try:
            sentence = refusal(folder)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {name}: {error!r}") from error
        assert sentence is None or sentence.endswith((".", "?")), (seed, name, sentence)
        assert time.process_time() - started_s < TIMEOUT_S, (seed, name)
        num_refused += sentence is not None
        for other in (name, "manifest.json"):
            shutil.copy(tiny_checkpoint / other, folder / other)
    assert num_refused > NUM_DAMAGES // 2

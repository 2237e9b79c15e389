# SPDX-License-Identifier: Apache-2.0
"""A LeRobot policy as a checkpoint folder of this project: LeRobot's files, and what they lack.

config.json, model.safetensors,      LeRobot's, as its trainer wrote them into pretrained_model/
train_config.json, policy_*
lerobot.json                         LeRobotSpec: arm, joints, picture, chunk
instructions.json                    the instructions of the data set
manifest.json                        sha256 of every other file, checked when loading
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from par_model.interface import PolicySpec
from par_model.json_file import file_in, read_object, shown, texts_of

DESCRIPTION = "lerobot.json"
FORMAT_VERSION = 1
STATE = "observation.state"
ACTION = "action"
_IMAGES = "observation.images."
_IMPORT = "import the policy again (python -m par_model.import_lerobot)"
_LEROBOT_FILES = (
    "config.json",
    "model.safetensors",
    "policy_preprocessor.json",
    "policy_postprocessor.json",
)


@dataclass(frozen=True)
class LeRobotSpec:
    """What LeRobot's own files do not say, or say for its code only; the content of lerobot.json.

    Attributes:
        policy: LeRobot's name of the policy, such as "act".
        arm, joint_names, step_s, image_height, image_width: as in PolicySpec; the data set's.
        num_actions: L, the checkpoint's n_action_steps: LeRobot executes so many actions of one
            answer before it looks again.
        image_feature: the data set's name of the one camera.
    """

    policy: str
    arm: str
    joint_names: tuple[str, ...]
    image_height: int
    image_width: int
    num_actions: int
    step_s: float
    image_feature: str


def is_lerobot(folder: Path) -> bool:
    """Whether `import_lerobot` wrote this folder."""
    return (folder / DESCRIPTION).is_file()


def lerobot_spec(
    config: dict[str, Any], arm: str, features: dict[str, Any], names: tuple[str, ...], fps: float
) -> LeRobotSpec:
    """Check that the policy sees and answers what this project's policies do.

    Args:
        config: LeRobot's config.json.
        arm, features, fps: of meta/info.json of the data set that it was trained on.
        names: the joints in the order of observation.state and action.

    Raises:
        ValueError: it reads other observations than the measured joints and one picture, reads
            earlier ones too, or answers with anything but a target for each joint.
    """
    inputs, outputs = (dict(config.get(f"{kind}_features") or {}) for kind in ("input", "output"))
    images = [name for name in inputs if name.startswith(_IMAGES)]
    if sorted(inputs) != sorted([STATE, *images]) or len(images) != 1 or list(outputs) != [ACTION]:
        raise ValueError(
            f"the policy must read {STATE} and one picture ({_IMAGES}...) and answer {ACTION}; it "
            f"reads {', '.join(sorted(inputs))} and answers {', '.join(outputs)}. Train it with "
            "--policy.input_features (docs/how_to/compare_with_lerobot.md): "
            "observation.environment_state is where the simulator knows the objects to be."
        )
    if config.get("n_obs_steps", 1) != 1:
        raise ValueError(
            f"the policy reads {config['n_obs_steps']} successive steps (n_obs_steps), and gets "
            "one picture a chunk here; train it with --policy.n_obs_steps=1."
        )
    for name, feature in ((STATE, inputs[STATE]), (ACTION, outputs[ACTION])):
        if feature.get("shape") != [len(names)]:
            raise ValueError(
                f"the policy's {name} has shape {feature.get('shape')} and the data set's joints "
                f"are {', '.join(names)}; give --data the data set that it was trained on."
            )
    height, width = _picture_size(images[0], features)
    if inputs[images[0]].get("shape") != [3, height, width]:
        raise ValueError(
            f"the policy's {images[0]} has shape {inputs[images[0]].get('shape')} and the data set "
            f"has pictures of {width} x {height}; give --data the data set that it was trained on."
        )
    return LeRobotSpec(
        policy=str(config.get("type")),
        arm=arm,
        joint_names=names,
        image_height=height,
        image_width=width,
        num_actions=int(config["n_action_steps"]),
        step_s=1.0 / fps,
        image_feature=images[0],
    )


def _picture_size(name: str, features: dict[str, Any]) -> tuple[int, int]:
    if name not in features:
        raise ValueError(
            f"the policy reads {name}, which the data set lacks; give --data the data set that it "
            "was trained on."
        )
    height, width, _ = features[name]["shape"]
    return height, width


def save_lerobot_folder(
    out: Path, pretrained: Path, spec: LeRobotSpec, instructions: tuple[str, ...]
) -> None:
    """Copy LeRobot's `pretrained` folder to `out` and add ours: whole, or not at all.

    Raises ValueError where `out` exists, or `pretrained` lacks a file.
    """
    if missing := [name for name in _LEROBOT_FILES if not (pretrained / name).is_file()]:
        raise ValueError(
            f"{pretrained} lacks {', '.join(missing)}; give the folder pretrained_model of a "
            "checkpoint that lerobot-train 0.4 wrote."
        )
    if out.exists():
        raise ValueError(f"{out} exists; choose another --out, or delete it.")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in sorted(pretrained.iterdir()):
        if path.is_file():
            shutil.copyfile(path, partial / path.name)
    _write_json(partial / DESCRIPTION, asdict(spec))
    _write_json(partial / "instructions.json", {"texts": list(instructions)})
    hashes = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
    _write_json(partial / "manifest.json", {"format_version": FORMAT_VERSION, "sha256": hashes})
    os.replace(partial, out)


def read_lerobot_folder(folder: Path) -> tuple[LeRobotSpec, PolicySpec]:
    """Read lerobot.json and instructions.json. Raises ValueError for a file that is damaged."""
    values = read_object(folder / DESCRIPTION, _IMPORT)
    texts = read_object(folder / "instructions.json", _IMPORT).get("texts")
    if set(values) != set(LeRobotSpec.__dataclass_fields__) or not isinstance(texts, list):
        raise ValueError(f"{folder / DESCRIPTION} or instructions.json is damaged; {_IMPORT}.")
    spec = LeRobotSpec(**{**values, "joint_names": tuple(values["joint_names"])})
    return spec, PolicySpec(
        arm=spec.arm,
        joint_names=spec.joint_names,
        image_height=spec.image_height,
        image_width=spec.image_width,
        num_actions=spec.num_actions,
        step_s=spec.step_s,
        instructions=tuple(texts),
    )


def verify_lerobot_folder(folder: Path) -> None:
    """Raise ValueError where a file is not the one that was imported."""
    manifest = read_object(folder / "manifest.json", _IMPORT)
    hashes = texts_of(manifest, "sha256", str(folder / "manifest.json"), _IMPORT)
    found = {path.name for path in folder.iterdir()} - {"manifest.json"}
    if found != set(hashes) or manifest.get("format_version") != FORMAT_VERSION:
        differing = ", ".join(sorted(found ^ set(hashes))) or "its format version"
        raise ValueError(f"{folder} and its manifest.json differ in {shown(differing)}; {_IMPORT}.")
    for name, expected in hashes.items():
        if _sha256(file_in(folder, name, str(folder / "manifest.json"))) != expected:
            raise ValueError(
                f"{folder / name} is not the file that was imported (its sha256 differs from "
                f"manifest.json); {_IMPORT}."
            )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

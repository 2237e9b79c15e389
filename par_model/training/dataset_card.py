# SPDX-License-Identifier: Apache-2.0
"""The README.md of a recorded data set: what it shows, how it was made, how exact it is."""

from collections.abc import Sequence
from typing import Any

_HEAD = """---
license: apache-2.0
task_categories: [robotics]
tags: [{tags}]
configs:
  - config_name: default
    data_files: data/*/*.parquet
---
"""
_PANDA_UNITS = (
    "rad; the gripper is the target position of one finger in metres (-0.01 closed, 0.04 open)"
)


def dataset_card(recording: dict[str, Any], lengths: Sequence[int], noisy: Sequence[bool]) -> str:
    """Markdown text. It holds no date, so that equal data sets have equal cards.

    recording: the recording's settings with `seeds` and `failed_seeds`.
    lengths, noisy: steps of each episode, and whether its actions were disturbed.
    """
    if recording.get("source") == "recordings":
        return _card_of_recordings(recording, lengths)
    is_on_policy = "policy" in recording
    rows = _rows(recording, lengths) + (_policy_rows if is_on_policy else _noise_rows)(
        recording, noisy
    )
    rows.append(("made with", ", ".join(f"{n} {v}" for n, v in recording["versions"].items())))
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    if is_on_policy:
        made, explanation = "a policy's episodes with an expert's labels", _policy_explanation
    elif "acted_by" in recording:
        made, explanation = "demonstrations by the task's expert", _expert_explanation
    else:
        made, explanation = "demonstrations by the task's planner", _explanation
    head = _HEAD.format(tags=f"LeRobot, ManiSkill, {recording.get('arm', 'panda')}")
    return (
        f"{head}# {recording['task']}: {made}\n\n"
        f'"{recording["instruction"]}"\n\n| | |\n|---|---|\n{table}\n{explanation(recording)}'
    )


def _card_of_recordings(recording: dict[str, Any], lengths: Sequence[int]) -> str:
    size = recording["image_size"]
    rows = [
        ("episodes", str(len(lengths))),
        ("steps", f"{sum(lengths)}; {min(lengths)} to {max(lengths)} an episode"),
        ("recordings", ", ".join(recording["recordings"])),
        ("arm", f"{recording['arm']}; joints {', '.join(recording['joint_names'])}"),
        ("rate", f"{recording['fps']} Hz; gaps of up to {recording['max_gap_s']:g} s"),
        ("units", "rad, and m for the gripper"),
        ("camera", f"{recording['camera']}, {size}x{size} RGB{_depth(_first_view(recording))}"),
        *(
            ("camera", f"{view['name']}, as large{_depth(view)}")
            for view in recording.get("further_cameras", ())
        ),
        ("made with", ", ".join(f"{n} {v}" for n, v in recording["versions"].items())),
    ]
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    text = (
        "Frame t and `observation.state` t are what was seen before action t. `action` is the\n"
        "joint target to learn, `executed_action` what the arm was sent.\n"
    )
    if recording["corrections"]:
        text += (
            "`action` is an operator's where the operator had the arm, else what the arm was\n"
            "sent. `teaches` is true where a chunk begins that the operator commanded;\n"
            "`policy_action` is what the policy wanted.\n"
        )
    head = _HEAD.format(tags=f"LeRobot, {recording['arm']}")
    title = f"# {recording['task']}: recordings of an arm"
    return f"{head}{title}\n\n| | |\n|---|---|\n{table}\n{text}Layout: LeRobotDataset v3.0.\n"


def _rows(recording: dict[str, Any], lengths: Sequence[int]) -> list[tuple[str, str]]:
    seeds, failed = recording["seeds"], recording["failed_seeds"]
    size = recording["image_size"]
    mean_length = sum(lengths) / len(lengths)
    gave_none = "no label that teaches" if "policy" in recording else "no demonstration"
    at_end = "" if "policy" in recording else ", each successful at its end"
    return [
        ("episodes", f"{len(lengths)}{at_end}"),
        (
            "steps",
            f"{sum(lengths)}; {min(lengths)} to {max(lengths)} an episode, mean {mean_length:.1f}",
        ),
        (
            "seeds",
            f"{min(seeds)} to {max(seeds)}, ascending; {len(failed)} of these gave "
            f"{gave_none} (meta/recording.json says why)",
        ),
        (
            "control",
            f"{recording['fps']} Hz, pd_joint_pos; joints {', '.join(recording['joint_names'])}",
        ),
        ("units", "rad, the gripper too" if "arm" in recording else _PANDA_UNITS),
        (
            "camera",
            f"{recording['camera']}, {size}x{size} RGB, eye {recording['camera_eye_m']} m, looks "
            f"at {recording['camera_target_m']} m, vertical field of view "
            f'{recording["camera_fov_rad"]} rad; light visual meshes, shader "minimal"',
        ),
        *(
            (
                "camera",
                f"{view['name']}, as large, eye {view['eye_m']} m, looks at {view['target_m']} m, "
                f"vertical field of view {view['fov_rad']} rad{_depth(view)}",
            )
            for view in recording.get("further_cameras", ())
        ),
        (
            "video",
            "H.264, lossless in YUV 4:4:4; mean absolute error to the rendered picture 0.4 of 255 "
            "(the rounding of the colour conversion)",
        ),
    ]


def _first_view(recording: dict[str, Any]) -> dict[str, Any]:
    """The first view, as the further ones are described."""
    key = "camera_depth_range_m"
    return {"depth_range_m": recording[key]} if key in recording else {}


def _depth(view: dict[str, Any]) -> str:
    if "depth_range_m" not in view:
        return ""
    near_m, far_m = view["depth_range_m"]
    return f"; depth: grey 255 is {near_m:g} m, 1 is {far_m:g} m, 0 no measurement"


def _noise_rows(recording: dict[str, Any], noisy: Sequence[bool]) -> list[tuple[str, str]]:
    noise = f"{sum(noisy)} episodes ({100 * sum(noisy) / len(noisy):.0f}%) are disturbed"
    if "num_hold_steps" not in recording:
        return [("noise", noise)]
    return [
        ("noise", noise),
        (
            "hold",
            f"the last {recording['num_hold_steps']} steps of each episode repeat the last target",
        ),
    ]


def _policy_rows(recording: dict[str, Any], noisy: Sequence[bool]) -> list[tuple[str, str]]:
    return [
        ("policy", f"{recording['policy']}, weights {recording['policy_weights_sha256'][:12]}"),
        ("starts", f"{sum(noisy)} episodes start somewhere on the way, the others at the reset"),
        ("length", f"until the first success, at most {recording['max_steps']} steps"),
    ]


def _policy_explanation(recording: dict[str, Any]) -> str:
    return (
        "Frame t and `observation.state` t are what was seen before action t. The policy acts in\n"
        "chunks: `executed_action` is what it sent to the arm. `action` is what the task's expert\n"
        "would have sent from the state in which the chunk began; nobody followed it. `teaches`\n"
        "is true where a chunk begins whose label is to be learnt: after a missed grasp, with a\n"
        "knocked cube, near the goal. `observation.environment_state`\n"
        f"({', '.join(recording['environment_state_names'])}, in metres) is for probes: no policy\n"
        "sees it. Layout: LeRobotDataset v3.0.\n"
    )


def _expert_explanation(recording: dict[str, Any]) -> str:
    return (
        f"The expert answers in chunks of {recording['noise_block_steps']} steps. `action` is its "
        "target\nfrom the state in which the chunk began, `executed_action` what the arm was sent: "
        "in disturbed\nepisodes a chunk is, with probability "
        f"{recording['noise_probability']}, offset by a constant drawn from\n"
        f"N(0, {recording['noise_sigma_rad']} rad) for each arm joint. Only the picture of a "
        "chunk's first step\nwas drawn; it stands for all of the chunk. `teaches` is true where a "
        "chunk begins.\n"
        f"`observation.environment_state` ({', '.join(recording['environment_state_names'])}, in\n"
        "metres) is for probes: no policy sees it. Layout: LeRobotDataset v3.0.\n"
    )


def _explanation(recording: dict[str, Any]) -> str:
    return (
        "Frame t and `observation.state` t are what was seen before action t. `action` is the\n"
        "planner's joint target and the label. `executed_action` is what the arm was sent: in\n"
        f"disturbed episodes each block of {recording['noise_block_steps']} steps is, with "
        f"probability {recording['noise_probability']}, offset by a\n"
        f"constant drawn from N(0, {recording['noise_sigma_rad']} rad) for each arm joint; "
        "elsewhere the two are equal.\n"
        f"`observation.environment_state` ({', '.join(recording['environment_state_names'])}, in\n"
        "metres) is for probes: no policy sees it. The disturbance is drawn from the episode's\n"
        "seed, so the same command gives the same data set.\n\n"
        "Seeds below 10000 are for demonstrations, 10000 to 19999 for model selection, 20241201\n"
        "and up for the final measurement. Layout: LeRobotDataset v3.0.\n"
    )

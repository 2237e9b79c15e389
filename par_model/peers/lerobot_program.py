# SPDX-License-Identifier: Apache-2.0
"""Answers for a policy of LeRobot. Runs in LeRobot's environment, which lacks this project.

    python lerobot_program.py [--device DEVICE] [--num-threads N] FOLDER SOCKET

LeRobotPolicy starts it; other_process.py has the protocol.
"""

import argparse
import json
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Answer = Callable[[dict[str, Any], bytes], list[list[float]]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="auto")
    parser.add_argument("--num-threads", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("socket", type=int)
    options = parser.parse_args()
    with Connection(options.socket) as connection:
        try:
            answer, version = load(options.folder, options.device, options.num_threads)
        except Exception as error:  # noqa: BLE001  LeRobotPolicy raises it as a sentence
            send(connection, {"error": sentence(error)})
            return
        send(connection, {"version": version})
        serve(connection, answer)


def serve(connection: Connection, answer: Answer) -> None:
    """Answer until the other end is closed."""
    while True:
        try:
            question, image = json.loads(connection.recv_bytes()), connection.recv_bytes()
        except EOFError:
            return
        try:
            reply: dict[str, Any] = {"actions": answer(question, image)}
        except Exception as error:  # noqa: BLE001  refused; the next question may fit
            reply = {"error": sentence(error)}
        send(connection, reply)


def load(folder: Path, device_name: str, num_threads: int | None) -> tuple[Answer, str]:
    """(what answers a question, LeRobot's version)"""
    import lerobot
    import numpy as np
    import torch
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from lerobot.utils.control_utils import predict_action

    if device_name == "auto":
        device_name = "cuda" if torch.cuda.is_available() else "cpu"
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    described = json.loads((folder / "lerobot.json").read_text())
    config = PreTrainedConfig.from_pretrained(folder)
    config.device = device_name
    # The weights are in the folder: nothing is downloaded to be overwritten.
    if hasattr(config, "pretrained_backbone_weights"):
        config.pretrained_backbone_weights = None
    policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
    preprocess, postprocess = make_pre_post_processors(
        config,
        pretrained_path=str(folder),
        preprocessor_overrides={"device_processor": {"device": device_name}},
    )
    device = torch.device(device_name)

    def answer(question: dict[str, Any], image: bytes) -> list[list[float]]:
        if question["seed"] is not None:
            policy.reset()
            torch.manual_seed(question["seed"])
        pixels = np.frombuffer(image, np.uint8).reshape(question["image_shape"])
        observation = {
            "observation.state": np.array(question["joints"], np.float32),
            described["image_feature"]: pixels.copy(),
        }
        # As many as LeRobot's queue holds: the first call fills it, the last one empties it.
        actions = [
            predict_action(
                observation, policy, device, preprocess, postprocess, config.use_amp,
                task=question["instruction"], robot_type=described["arm"],
            )
            for _ in range(described["num_actions"])
        ]  # fmt: skip
        return torch.cat(actions).double().cpu().tolist()

    return answer, lerobot.__version__


def send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


if __name__ == "__main__":
    main()

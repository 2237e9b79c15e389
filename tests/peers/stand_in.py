# SPDX-License-Identifier: Apache-2.0
"""A small program that answers as lerobot_program.py does, or fails in one of MODE's ways.

    python tests/peers/stand_in.py MODE[@N] ... FOLDER SOCKET

What is wrong with an answer is wrong with the N-th, not given: the second.

An action's joint is the measured joint, plus the share of red in the picture times 0.001, plus a
random number below 0.001 of a generator that the seed starts.
"""

import json
import os
import random
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path


def main() -> None:
    (mode, _, number), folder, socket = (
        sys.argv[1].partition("@"),
        Path(sys.argv[-2]),
        int(sys.argv[-1]),
    )
    fails_at = int(number or 2)
    num_actions = json.loads((folder / "lerobot.json").read_text())["num_actions"]
    connection = Connection(socket)
    if mode == "die_at_load":
        print("no module named torch")
        sys.exit(3)
    say(connection, {"error": "no weights"} if mode == "refuse_load" else {"version": "0"})
    if mode == "deaf":
        time.sleep(60)
    generator, num_questions = random.Random(), 0
    while True:
        try:
            question, image = json.loads(connection.recv_bytes()), connection.recv_bytes()
        except EOFError:
            return
        num_questions += 1
        if question["seed"] is not None:
            generator = random.Random(question["seed"])
        red = sum(image[::3]) / (255 * len(image) / 3)
        actions = [
            [joint + 0.001 * (red + generator.random()) for joint in question["joints"]]
            for _ in range(num_actions)
        ]
        if num_questions == fails_at:
            misbehave(mode, connection, actions)
        if mode != "refuse" or num_questions != fails_at:
            say(connection, {"actions": actions})


def misbehave(mode: str, connection: Connection, actions: list[list[float]]) -> None:
    """Fail, or spoil `actions`."""
    if mode == "die":
        print("Segmentation fault (made up)", flush=True)
        sys.exit(7)
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "hang":
        time.sleep(60)
    if mode == "short":
        actions.pop()
    if mode == "joints":
        actions[0].pop()
    if mode == "nan":
        actions[0][0] = float("nan")
    if mode == "text":
        actions[0] = "up"  # type: ignore[call-overload]
    if mode == "nothing":
        actions.clear()
    if mode == "not_json":
        connection.send_bytes(b"\x80\x04pickle")
    if mode == "large":
        connection.send_bytes(bytes(2 * 2**20))
    if mode == "refuse":
        say(connection, {"error": "RuntimeError: no such picture"})


def say(connection: Connection, message: dict[str, object]) -> None:
    connection.send_bytes(json.dumps(message).encode())


if __name__ == "__main__":
    main()

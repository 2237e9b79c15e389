# SPDX-License-Identifier: Apache-2.0
"""How long the collision check of one chunk takes: `python -m tests.control.collision_benchmark`.

The shapes of config/arms/panda.yaml, 2,000 random chunks from poses without collision: each joint
to another target within 0.5 s, then at rest, sampled each millisecond as the guard's verifier does.
"""

import dataclasses
import time

import numpy as np

from par_ros.control.arm_spec import ArmSpec
from par_ros.control.collision_check import CollisionCheck
from tests.control.arms import FOLDER, content


def main() -> None:
    spec = ArmSpec.from_mapping("panda", content("panda"), FOLDER)
    assert spec.collision is not None
    check = CollisionCheck(
        dataclasses.replace(spec.collision, enabled=True), spec.arm_joint_names, spec.home
    )
    generator = np.random.default_rng(0)
    share = np.clip(np.arange(1_050) / 500, 0.0, 1.0)[:, None]
    share = share * share * (3 - 2 * share)
    times_ms, num_refused = [], 0
    while len(times_ms) < 2_000:
        start = spec.home + generator.normal(0.0, 0.3, 7)
        if check.distances(start).min() < 0.01:
            continue
        way = start + share * generator.uniform(-0.4, 0.4, 7)
        begin_s = time.thread_time()
        num_refused += bool(check.why_not(way))
        times_ms.append(1e3 * (time.thread_time() - begin_s))
    p50, p99, worst = np.percentile(times_ms, [50, 99, 100])
    print(f"{check.description}; {num_refused} of {len(times_ms)} chunks refused")
    print(f"of one thread's CPU: p50 {p50:.2f} ms, p99 {p99:.2f} ms, worst {worst:.2f} ms")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""How long the collision check of one chunk takes: `python -m tests.control.collision_benchmark`.

The panda of ManiSkill with nine capsules above a table, 2,000 random chunks from poses without
collision: each joint to another target within 0.5 s, then at rest, sampled each millisecond as the
guard's verifier does.
"""

import time
from pathlib import Path

import numpy as np

from par_ros.control.collision_check import CollisionCheck
from par_ros.control.collision_geometry import CollisionGeometry
from tests.control.arms import arm

# Link, both ends and radius, m: rough hulls of the panda's links.
CAPSULES = (
    ("panda_link0", [-0.1, 0, 0.06], [0, 0, 0.06], 0.08),
    ("panda_link1", [0, 0, -0.19], [0, 0, -0.05], 0.08),
    ("panda_link2", [0, 0, -0.06], [0, 0, 0.06], 0.08),
    ("panda_link3", [0, 0, -0.15], [0, 0, -0.05], 0.07),
    ("panda_link4", [0, 0, -0.06], [0, 0, 0.06], 0.07),
    ("panda_link5", [0, 0, -0.25], [0, 0.05, -0.1], 0.06),
    ("panda_link6", [0, 0, -0.03], [0.05, 0, 0.03], 0.06),
    ("panda_hand", [0, -0.08, 0.03], [0, 0.08, 0.03], 0.04),
    ("panda_hand", [0, 0, 0.06], [0, 0, 0.1], 0.025),
)


def panda_check(urdf: Path) -> CollisionCheck:
    """The panda over a table at z = 0."""
    spec = arm("panda")
    keys = ("link", "start_m", "end_m", "radius_m")
    section = {
        "urdf": str(urdf),
        "margin_m": 0.01,
        "capsules": [dict(zip(keys, capsule, strict=True)) for capsule in CAPSULES],
        "boxes": {"table": {"min_corner_m": [-1, -1, -0.5], "max_corner_m": [1, 1, -0.03]}},
    }
    geometry = CollisionGeometry.from_mapping("panda", section)
    return CollisionCheck(geometry, spec.arm_joint_names, spec.home)


def main() -> None:
    import mani_skill

    check = panda_check(Path(mani_skill.PACKAGE_ASSET_DIR, "robots/panda/panda_v2.urdf"))
    spec = arm("panda")
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

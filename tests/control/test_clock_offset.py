# SPDX-License-Identifier: Apache-2.0
"""The offset of two clocks is known better than they can be read together."""

import numpy as np
import pytest

from par_ros.control.clock_offset import ClockOffset

TICK_NS = 10_000_000
OFFSET_NS = 1_700_000_000_000_000_000


def read(
    offset: ClockOffset, num: int, *, slew: float = 0.0, step_ns: int = 0, seed: int = 0
) -> list[int]:
    """How far the estimate is off at `num` readings 10 ms apart, each wrong by up to 2 us."""
    errors = np.random.default_rng(seed).integers(-2_000, 2_001, num).tolist()
    off = []
    for number, error_ns in enumerate(errors):
        steady_ns = number * TICK_NS
        true_ns = OFFSET_NS + round(slew * steady_ns) + (step_ns if number >= num // 2 else 0)
        off.append(offset.update(steady_ns, true_ns + error_ns, 2_000) - true_ns)
    return off


@pytest.mark.parametrize("slew", [0.0, 5e-4, -5e-4])
def test_noise_of_reading_is_averaged_out_while_the_clock_is_slewed(slew: float) -> None:
    off = np.abs(read(ClockOffset(), 400, slew=slew)[100:])
    assert off.max() < 1_500
    assert off.mean() < 500


@pytest.mark.parametrize("step_ns", [20_000, -20_000, 1_000_000, -5_000_000_000])
def test_a_step_is_followed_at_once(step_ns: int) -> None:
    off = np.abs(read(ClockOffset(), 400, step_ns=step_ns))
    assert off[200:].max() <= 4_000
    assert off[200] <= 2_000


def test_an_old_line_is_forgotten() -> None:
    offset = ClockOffset()
    read(offset, 100)
    assert offset.update(100 * 1_000_000_000, OFFSET_NS + 7, 0) == OFFSET_NS + 7

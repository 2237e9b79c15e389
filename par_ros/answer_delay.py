# SPDX-License-Identifier: Apache-2.0
"""An experiment: answers that come late on purpose."""

import time
from collections.abc import Callable

import numpy as np

from par_ros import messages

_POLL_S = 0.001


class AnswerDelay:
    """Draws each answer's delay evenly from `delay_s` - `jitter_s` to `delay_s` + `jitter_s`."""

    def __init__(self, delay_s: float, jitter_s: float, seed: int) -> None:
        self._delay_s, self._jitter_s = delay_s, jitter_s
        self._generator = np.random.default_rng(seed)

    def wait(self, stamp_ns: int, now_ns: Callable[[], int], is_wanted: Callable[[], bool]) -> None:
        """Blocks until the picture of `stamp_ns` is as old as the next delay on the node's clock,
        or the answer is not wanted any more."""
        if self._delay_s == self._jitter_s == 0.0:
            return
        delay_s = self._delay_s + self._jitter_s * self._generator.uniform(-1.0, 1.0)
        due_ns = stamp_ns + messages.seconds_to_ns(max(delay_s, 0.0))
        while now_ns() < due_ns and is_wanted():
            time.sleep(_POLL_S)

# SPDX-License-Identifier: Apache-2.0
"""guard_state is published at each change of what it says; the guard is real, its clock is not."""

from collections.abc import Callable

import numpy as np
from rclpy.node import Node

from par_ros.control.command import Command
from par_ros.guard_outputs import GuardOutputs
from tests.control.guard_rig import Rig


class Watched:
    """A guard, and whether its state has to be published after each step."""

    def __init__(self, node: Node) -> None:
        self.rig = Rig()
        self._outputs = GuardOutputs(node, dry_run=False, joint_prefix="")
        self._publish()

    def _publish(self) -> None:
        self._outputs.publish_state(self.rig.guard, {}, self.rig.moment)

    def has_news_once(self, step: Callable[[], object]) -> bool:
        """Whether it has after `step`, and no more once it was published."""
        step()
        has_news = self._outputs.has_news(self.rig.guard)
        self._publish()
        assert not self._outputs.has_news(self.rig.guard)
        return has_news

    def chunk(self) -> Command:
        return self.rig.chunk(self.rig.gentle(0.1))


def test_every_change_of_the_state_is_news(ros: None) -> None:
    node = Node("outputs")
    watched = Watched(node)
    rig = watched.rig
    assert not watched.has_news_once(lambda: rig.wait(0.3))
    assert watched.has_news_once(lambda: rig.call("engage"))
    assert not watched.has_news_once(watched.chunk)
    # No chunk came: the guard holds, until one does.
    assert watched.has_news_once(lambda: rig.wait(0.8))
    assert rig.guard.holding == "late"
    assert watched.has_news_once(watched.chunk)
    assert rig.guard.holding == ""
    assert watched.has_news_once(lambda: rig.call("disengage"))
    rig.wait(0.8)
    assert watched.has_news_once(lambda: rig.call("e_stop"))
    assert watched.has_news_once(lambda: rig.guard.reset_stop())
    assert watched.has_news_once(lambda: rig.call("engage"))
    bad = np.full((8, 8), np.nan)
    assert watched.has_news_once(lambda: rig.chunk(bad))
    assert rig.guard.last_fault is not None
    node.destroy_node()

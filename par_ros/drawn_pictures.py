# SPDX-License-Identifier: Apache-2.0
"""Pictures that a policy draws for people, after a chunk was sent and where there is time for them.

A kind is named as the parameter of policy_node that asks for it.
"""

import time
from collections.abc import Iterator
from typing import Literal, Protocol, runtime_checkable

from par_model.interface import ImageArray, Policy
from par_ros.control.latency_budget import LatencyBudget
from par_ros.parameters import PolicyNodeParameters

PictureKind = Literal["predict_images", "attention_images"]
PREDICTION: PictureKind = "predict_images"
ATTENTION: PictureKind = "attention_images"
PICTURE_KINDS = (PREDICTION, ATTENTION)
_VERBS: dict[PictureKind, str] = {
    PREDICTION: "predict pictures",
    ATTENTION: "show what it looks at",
}


@runtime_checkable
class FramePredictor(Protocol):
    """A policy that can also draw what it expects to see next."""

    def predict_frame(self) -> ImageArray:
        """uint8 [V H, W, 3]: the next observation after the chunk of the last act()."""


@runtime_checkable
class AttentionDrawer(Protocol):
    """A policy that can also draw what its actions look at."""

    def attention_picture(self) -> ImageArray:
        """uint8 [V H, W, 3]: the newest observation, darker where less is looked at."""


def wanted_pictures(parameters: PolicyNodeParameters) -> Iterator[PictureKind]:
    """The kinds that the parameters ask for."""
    if parameters.predict_images:
        yield PREDICTION
    if parameters.attention_images:
        yield ATTENTION


def require_pictures(policy: Policy, parameters: PolicyNodeParameters) -> None:
    """Raise ValueError where `policy` cannot draw what the parameters ask for."""
    for kind in wanted_pictures(parameters):
        if not isinstance(policy, FramePredictor if kind == PREDICTION else AttentionDrawer):
            raise ValueError(
                f"{kind} is true, but this policy cannot {_VERBS[kind]}; set {kind}:=false."
            )


def draw(policy: Policy, kind: PictureKind, budget: LatencyBudget) -> ImageArray:
    """A picture by a policy of which `require_pictures` said that it can; budget: told its time."""
    started_s = time.monotonic()
    if kind == PREDICTION:
        assert isinstance(policy, FramePredictor)
        picture = policy.predict_frame()
    else:
        assert isinstance(policy, AttentionDrawer)
        picture = policy.attention_picture()
    budget.drew(kind, time.monotonic() - started_s)
    return picture

# SPDX-License-Identifier: Apache-2.0
"""Which policy may be asked for overlapped inference, and when."""

import dataclasses

import pytest

from par_ros.fixed_chunk_node import FixedChunkPolicy
from par_ros.parameters import PolicyNodeParameters
from par_ros.policy_source import require_inference

PLAIN = FixedChunkPolicy().spec
TRAINED = dataclasses.replace(PLAIN, max_delay_steps=10)
OVERLAPPED = PolicyNodeParameters(inference="overlapped")


def test_a_trained_policy_in_real_time_may_and_every_policy_may_be_sequential() -> None:
    require_inference(TRAINED, OVERLAPPED)
    for spec in (PLAIN, TRAINED):
        for mode in ("lockstep", "realtime"):
            require_inference(spec, PolicyNodeParameters(mode=mode, predict_images=True))


@pytest.mark.parametrize(
    ("spec", "changes", "sentence"),
    [
        (PLAIN, {}, "its max_delay_steps is 0"),
        (TRAINED, {"mode": "lockstep"}, "needs mode realtime"),
        (TRAINED, {"predict_images": True}, "predict_images keeps the policy"),
    ],
)
def test_what_cannot_overlap_is_refused(spec, changes, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        require_inference(spec, dataclasses.replace(OVERLAPPED, **changes))

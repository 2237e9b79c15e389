# SPDX-License-Identifier: Apache-2.0
"""Which policy may be asked for overlapped inference, and when."""

import dataclasses
from typing import Any

import pytest

from par_model.interface import PolicySpec
from par_ros.fixed_chunk_node import FixedChunkPolicy
from par_ros.parameters import PolicyNodeParameters
from par_ros.policy_source import require_inference

PLAIN = FixedChunkPolicy().spec
TRAINED = dataclasses.replace(PLAIN, max_delay_steps=10)
OVERLAPPED = PolicyNodeParameters(inference="overlapped")


def refusal(spec: PolicySpec, parameters: PolicyNodeParameters) -> str:
    """The sentence with which this is refused; empty where it is not."""
    try:
        require_inference(spec, parameters)
    except ValueError as error:
        return str(error)
    return ""


def test_a_trained_policy_may_overlap_in_real_time() -> None:
    assert refusal(TRAINED, OVERLAPPED) == ""


@pytest.mark.parametrize("spec", [PLAIN, TRAINED])
@pytest.mark.parametrize("mode", ["lockstep", "realtime"])
def test_every_policy_may_be_sequential(spec: PolicySpec, mode: str) -> None:
    assert refusal(spec, PolicyNodeParameters(mode=mode, predict_images=True)) == ""


@pytest.mark.parametrize("delay", [{"policy_delay": 0.1}, {"delay_jitter": 0.1}])
def test_answers_are_not_delayed_in_lockstep(delay: dict[str, Any]) -> None:
    assert "need mode realtime" in refusal(PLAIN, PolicyNodeParameters(mode="lockstep", **delay))
    assert refusal(PLAIN, PolicyNodeParameters(mode="realtime", **delay)) == ""


@pytest.mark.parametrize(
    ("spec", "changes", "sentence"),
    [
        (PLAIN, {}, "its max_delay_steps is 0"),
        (TRAINED, {"mode": "lockstep"}, "needs mode realtime"),
        (TRAINED, {"predict_images": True}, "predict_images keeps the policy"),
        (TRAINED, {"attention_images": True}, "attention_images keeps the policy"),
    ],
)
def test_what_cannot_overlap_is_refused(
    spec: PolicySpec, changes: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal(spec, dataclasses.replace(OVERLAPPED, **changes))

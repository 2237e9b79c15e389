# SPDX-License-Identifier: Apache-2.0
"""A head that predicts noise, which may take 10 steps at least, through the eager runtime."""

import dataclasses

import pytest

from par_model.backends.torch_eager import TorchEager
from par_model.diffusion import LEAST_NOISE_STEPS
from par_model.presets import preset
from tests.backends.runtimes import CPU, small_checkpoint

TINY = preset("par_tiny")
NOISE = dataclasses.replace(TINY.action_diffusion, prediction="epsilon")


def eager(num_steps: int) -> TorchEager:
    return TorchEager(small_checkpoint(action_diffusion=NOISE), CPU, num_steps=num_steps)


def test_it_offers_the_default_and_the_halves_that_are_enough() -> None:
    graphs = eager(40)
    assert graphs.sampling_steps == (40, 20, 10)
    assert set(graphs._schedules) == {40, 20, 10}
    assert eager(LEAST_NOISE_STEPS).sampling_steps == (LEAST_NOISE_STEPS,)


def test_fewer_steps_as_the_default_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 10"):
        eager(LEAST_NOISE_STEPS - 1)

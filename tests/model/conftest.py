# SPDX-License-Identifier: Apache-2.0
"""Small real models and clips for the tests of this folder."""

import numpy as np
import pytest

from par_model.checkpoint import save_checkpoint
from par_model.model import PARModel
from tests.model.fixtures import random_checkpoint_parts


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A par_tiny checkpoint with random weights, as a folder."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(folder, **random_checkpoint_parts("par_tiny"))
    return folder


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def tiny_model():
    """par_tiny in float64 with every weight random, heads that start at zero included."""
    parts = random_checkpoint_parts("par_tiny")
    model: PARModel = parts["model"]
    return model.double().eval()

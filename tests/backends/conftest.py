# SPDX-License-Identifier: Apache-2.0
"""One checkpoint, and its export made once a session where a test asks for it."""

import functools

import pytest

from tests.backends.runtimes import export_fused, small_checkpoint


@pytest.fixture(scope="session")
def checkpoint():
    return small_checkpoint()


@pytest.fixture(scope="session")
def export_folder(checkpoint, tmp_path_factory):
    """A function that gives the folder of the fused float32 export."""
    folder = tmp_path_factory.mktemp("exports") / "tiny"
    return functools.cache(lambda: export_fused(checkpoint, folder))

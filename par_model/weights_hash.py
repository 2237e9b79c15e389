# SPDX-License-Identifier: Apache-2.0
"""Which weights a result or a calibration belongs to."""

import hashlib
from pathlib import Path

from par_model.json_file import read_object, texts_of


def weights_hash(checkpoint: Path) -> str:
    """sha256 over the hashes of the weights and statistics in the checkpoint's manifest.

    Unlike `checkpoint_hash` it does not change when the card is written again.

    Raises ValueError for a folder without a manifest that can be read.
    """
    manifest = checkpoint / "manifest.json"
    advice = "copy the checkpoint again"
    hashes = texts_of(read_object(manifest, advice), "sha256", str(manifest), advice)
    kept = sorted(
        f"{name} {value}"
        for name, value in hashes.items()
        if name.endswith(".safetensors") or name == "statistics.json"
    )
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()

# SPDX-License-Identifier: Apache-2.0
"""The bounds of half precision: fixed, or twice what PyTorch deviates in the same precision."""

import pytest

from par_model.graphs.goldens import COMPARED, Deviation, require_close


def found(max_abs: float, cosine: float) -> dict[str, Deviation]:
    return {name: Deviation(max_abs, cosine) for name in COMPARED}


def test_half_precision_has_fixed_bounds() -> None:
    require_close(found(0.04, 0.9995), "bf16", "x")
    with pytest.raises(ValueError, match=r"actions is off by 0\.06 .*at most 0\.05 max abs.*--pre"):
        require_close(found(0.06, 0.9995), "bf16", "x")
    with pytest.raises(ValueError, match=r"context is off by .*cosine at least 0\.999;"):
        require_close(found(0.04, 0.998), "fp16", "x")


def test_what_rounding_does_to_pytorch_widens_them() -> None:
    usual = found(0.08, 0.997)
    require_close(found(0.15, 0.9945), "bf16", "x", usual)
    with pytest.raises(ValueError, match=r"at most 0\.16 max abs"):
        require_close(found(0.17, 0.9945), "bf16", "x", usual)
    with pytest.raises(ValueError, match=r"cosine at least 0\.994;"):
        require_close(found(0.1, 0.9935), "bf16", "x", usual)


def test_float32_is_never_widened() -> None:
    with pytest.raises(ValueError, match="at most 1e-4"):
        require_close(found(2e-4, 1.0), "fp32", "x", found(0.1, 0.9))


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="is off by nan"):
        require_close(found(float("nan"), 1.0), "bf16", "x", found(float("inf"), 0.5))

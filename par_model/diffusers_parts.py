# SPDX-License-Identifier: Apache-2.0
"""What this package uses of diffusers, imported without what diffusers imports beside it.

With any of its classes diffusers imports torch's compiler and, where they are installed,
transformers, peft and scipy.stats: 3 of the 5 s of processor time that importing PyTorch and
diffusers takes. The autoencoder and the schedulers use none of them, so diffusers is imported here
as it is where they are not installed, and it stays so in this process; others may import them
afterwards. A diffusers that was imported before this module is taken as it is.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_NOT_USED = ("torch._dynamo", "accelerate", "peft", "scipy", "transformers")


@contextmanager
def _without_the_unused() -> Iterator[None]:
    """Inside, _NOT_USED are not found."""
    if "diffusers" in sys.modules:
        yield
        return
    before = {name: sys.modules[name] for name in _NOT_USED if name in sys.modules}
    disable = torch.compiler.disable
    # It would import the compiler, only to mark functions that this package does not call.
    torch.compiler.disable = _leave_unmarked
    # None: no such module, for the import statement and importlib.util.find_spec alike
    sys.modules.update(dict.fromkeys(_NOT_USED))  # type: ignore[arg-type]
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for name in _NOT_USED:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def _leave_unmarked(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    return _leave_unmarked if function is None else function


with _without_the_unused():
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
    )

__all__ = (
    "AutoencoderKL",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
)

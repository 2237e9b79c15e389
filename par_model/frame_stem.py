# SPDX-License-Identifier: Apache-2.0
"""Convolutions between a frame's latents and its tokens.

Shapes: M frames; c, h, w of a latent; C channels of the stem.
"""

from torch import Tensor, nn
from torch.nn import functional


class FrameStem(nn.Module):
    """Latents [M, c, h, w] -> features [M, 2C, h / 2, w / 2].

    A patch's place inside a picture comes from its token's index, a thing's place inside a patch
    from the patch's own values only; one linear layer reads the second badly ("Early Convolutions
    Help Transformers See Better", arXiv 2106.14881; `train probe --frame-stem` measures it). NOVA
    has none.
    """

    def __init__(self, latent_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(latent_channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.halve = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        # Torch's own start shrinks the picture layer by layer until little but the biases is left.
        for layer in (self.conv1, self.conv2, self.halve, self.conv3):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, latents_Mchw: Tensor) -> Tensor:
        x = latents_Mchw
        for layer in (self.conv1, self.conv2, self.halve, self.conv3):
            x = functional.gelu(layer(x))
        return x


def stem_and_patches(
    latent_channels: int, stem_channels: int, frame_patch: int, width: int
) -> tuple[nn.Module, nn.Conv2d]:
    """The stem (nothing for 0 channels), and the convolution that makes a token of `width` numbers
    of each `frame_patch` x `frame_patch` latent pixels after it."""
    if not stem_channels:
        return nn.Identity(), nn.Conv2d(latent_channels, width, frame_patch, frame_patch)
    stem = FrameStem(latent_channels, stem_channels)
    return stem, nn.Conv2d(2 * stem_channels, width, frame_patch // 2, frame_patch // 2)

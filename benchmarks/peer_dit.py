"""diffusers' DiT on pixels, of about as many multiply-adds an image as the network measured. Only workers import it."""

import diffusers
import torch
from torch import nn


class PixelDiT(nn.Module):
    """(z_t [B, C, H, W], logsnr [B], labels [B] or None) -> [B, C, H, W]: DiTTransformer2DModel, patches as tokens.

    Raises ValueError for images that are not square.
    """

    def __init__(self, image_shape, patch_size: int, heads: int, head_dim: int, layers: int):
        super().__init__()
        height, width, colours = image_shape
        if height != width:
            raise ValueError(f"diffusers' DiT takes square images, not {height} x {width}.")
        self.dit = diffusers.DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            in_channels=colours,
            out_channels=colours,
            num_layers=layers,
            sample_size=height,
            patch_size=patch_size,
            norm_num_groups=1,
        )

    def forward(self, z_t, logsnr, labels):
        labels = torch.zeros_like(logsnr, dtype=torch.int64) if labels is None else labels
        return self.dit(z_t, timestep=(logsnr * 20.0 + 500.0).long(), class_labels=labels % 1000).sample


def sizes(image_shape, target: int) -> dict:
    """Arguments of a PixelDiT of about `target` multiply-adds: 28 layers as DiT-XL, or few where images are small."""
    side, _, colours = image_shape
    patch = max(1, min(16, side // 16))
    large, tokens = target > 1e9, (side // patch) ** 2
    head_dim = 64 if large else 8

    def estimate(layers: int, heads: int) -> int:
        width = heads * head_dim
        ends = 2 * tokens * width * patch**2 * colours + 256 * width + 3 * width**2
        block = tokens * (12 * width**2 + 2 * tokens * width) + 6 * width**2 + 256 * width + width**2
        return layers * block + ends

    choices = ((layers, heads) for layers in (range(24, 33) if large else range(2, 9)) for heads in range(1, 65))
    layers, heads = min(choices, key=lambda choice: abs(estimate(*choice) - target))
    return {"patch_size": patch, "heads": heads, "head_dim": head_dim, "layers": layers}

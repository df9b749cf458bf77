"""diffusers' own sampling beside ours: its DDPM pipeline with a U-Net that costs as much as the network measured.

The U-Net has blocks with attention at the resolutions where ours has transformer blocks, and its widths are about ours
times one factor, chosen so that the multiply-adds of an image agree. Only workers import this: it needs diffusers and
torch.
"""

import itertools
import math

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

TOLERANCE = 0.05  # of the multiply-adds
_UNIT = 4  # widths are multiples of it, and group norms have so many groups


class Peer:
    """A UNet2DModel of about `target` multiply-adds an image, shaped after a ResidualUViT's configuration.

    Raises ValueError where none comes within TOLERANCE.
    """

    def __init__(self, network: dict, target: int):
        self._network, self.image_shape = network, tuple(network["image_shape"])
        widths = self._widths(target)
        self.unet, self.multiply_adds = self._unet(widths).eval(), self._cost(widths)
        if abs(self.multiply_adds - target) > TOLERANCE * target:
            raise ValueError(f"The U-Net nearest to {target} multiply-adds an image has {self.multiply_adds}.")

    def facts(self) -> dict:
        """For the record: what the U-Net is and costs."""
        return {
            "diffusers multiply-adds an image": self.multiply_adds,
            "diffusers parameters": self.unet.num_parameters(),
            "diffusers block_out_channels": list(self.unet.config.block_out_channels),
        }

    def pipeline(self, num_steps: int):
        """`draw(num_images, seed)` by a DDPMPipeline: uint8 [num_images, H, W, C]."""
        pipeline = DDPMPipeline(self.unet, DDPMScheduler(num_train_timesteps=max(1000, num_steps)))
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to("cuda" if torch.cuda.is_available() else "cpu")

        def draw(num_images: int, seed: int) -> np.ndarray:
            generator = torch.Generator().manual_seed(seed)
            settings = {"num_inference_steps": num_steps, "output_type": "np"}
            images = pipeline(batch_size=num_images, generator=generator, **settings).images
            return np.rint(images * 255.0).astype("uint8")

        return draw

    def _levels(self) -> list[dict]:
        """Ours, with the first one repeated at the resolutions above it that patches jump over."""
        levels = self._network["levels"]
        return [{**levels[0], "kind": "res"}] * round(math.log2(self._network["patch_size"])) + list(levels)

    def _unet(self, widths: tuple[int, ...]) -> UNet2DModel:
        levels = self._levels()
        attends = [level["kind"] == "transformer" for level in levels]
        heads = (level["head_dim"] for level in levels if level.get("head_dim"))
        return UNet2DModel(
            sample_size=self.image_shape[:2],
            in_channels=self.image_shape[2],
            out_channels=self.image_shape[2],
            block_out_channels=widths,
            down_block_types=["AttnDownBlock2D" if attention else "DownBlock2D" for attention in attends],
            up_block_types=["AttnUpBlock2D" if attention else "UpBlock2D" for attention in attends[::-1]],
            layers_per_block=levels[0]["blocks"],
            attention_head_dim=min([*heads, *widths]),
            add_attention=attends[-1],
            norm_num_groups=_UNIT,
        )

    def _widths(self, target: int) -> tuple[int, ...]:
        """Ours times a factor found by bisection; then the last two by a unit more or less, where that is nearer."""
        low, high = 0.0, 8.0
        for _ in range(12):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self._cost(self._scaled(middle)) < target else (low, middle)
        widths = self._scaled(low)
        choices = itertools.product(*([w] for w in widths[:-2]), *([w, w - _UNIT, w + _UNIT] for w in widths[-2:]))
        return min((c for c in choices if min(c) > 0), key=lambda choice: abs(self._cost(choice) - target))

    def _scaled(self, factor: float) -> tuple[int, ...]:
        return tuple(max(_UNIT, _UNIT * round(factor * level["channels"] / _UNIT)) for level in self._levels())

    def _cost(self, widths: tuple[int, ...]) -> int:
        """Multiply-adds of one image, counted without computing: on a CPU, the counter misses attention's products."""
        height, width, channels = self.image_shape
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            self._unet(widths)(torch.zeros((1, channels, height, width)), torch.zeros((1,)))
        return counter.get_total_flops() // 2


class Denoiser(torch.nn.Module):
    """(z_t [B, C, H, W], logsnr [B], labels) -> [B, C, H, W]: a UNet2DModel, which sees no labels."""

    def __init__(self, unet: UNet2DModel):
        super().__init__()
        self.unet = unet

    def forward(self, z_t, logsnr, labels):
        del labels
        return self.unet(z_t, logsnr * 20.0 + 500.0).sample

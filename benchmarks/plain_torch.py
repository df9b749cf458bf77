"""The network of a ResidualUViT and its training step, by hand in plain torch: what a user would write without Keras.

Blocks, widths, dropout, conditioning, loss, clipping, Adam and averages are those of the library; bfloat16 is torch's
own autocast. Weights are not exchanged with the library's: what is compared is speed, at multiply-adds that
`multiply_adds` counts. Only workers import this.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class ResBlock(nn.Module):
    """[B, C, H, W], [B, E] -> [B, C, H, W]."""

    def __init__(self, channels: int, embedding: int, dropout: float):
        super().__init__()
        groups = math.gcd(32, max(1, channels // 4), channels)
        self.norm1, self.norm2 = (nn.GroupNorm(groups, channels, eps=1e-6) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.modulation, self.dropout = nn.Linear(embedding, 2 * channels), nn.Dropout(dropout)

    def forward(self, h, emb):
        scale, shift = self.modulation(emb)[:, :, None, None].chunk(2, 1)
        branch = self.norm2(self.conv1(F.silu(self.norm1(h)))) * (1 + scale) + shift
        return h + self.conv2(self.dropout(F.silu(branch)))


class TransformerBlock(nn.Module):
    """[B, N, C], [B, E] -> [B, N, C]."""

    def __init__(self, channels: int, head_dim: int, embedding: int, dropout: float):
        super().__init__()
        self.head_dim = head_dim
        self.norm1, self.norm2 = (nn.LayerNorm(channels, eps=1e-6) for _ in range(2))
        self.mlp1, self.mlp2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.modulation, self.dropout = nn.Linear(embedding, 8 * channels), nn.Dropout(dropout)
        self.qkv, self.out = nn.Linear(channels, 3 * channels, bias=False), nn.Linear(channels, channels)
        self.query_norm, self.key_norm = (nn.LayerNorm(head_dim, eps=1e-6) for _ in range(2))

    def forward(self, h, emb):
        scale, shift = self.modulation(emb)[:, None].chunk(2, -1)
        hidden = F.silu(self.mlp1(self.norm1(h))) * (1 + scale) + shift
        h = h + self.mlp2(self.dropout(hidden))
        batch, positions, channels = h.shape
        heads = (batch, positions, 3, channels // self.head_dim, self.head_dim)
        q, k, v = self.qkv(self.norm2(h)).view(heads).unbind(2)
        q, k, v = (x.transpose(1, 2) for x in (self.query_norm(q), self.key_norm(k), v))
        found = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return h + self.out(found.transpose(1, 2).reshape(batch, positions, channels))


class Level(nn.Module):
    """A level with all below it, [B, C, H, W], [B, E] -> [B, C, H, W]."""

    def __init__(self, levels: list[dict], embedding: int, side: tuple[int, int]):
        super().__init__()
        level, *lower = levels
        channels, self.attends = level["channels"], level["kind"] == "transformer"

        def blocks():
            drop = level.get("dropout") or 0.0
            if self.attends:
                made = (TransformerBlock(channels, level["head_dim"], embedding, drop) for _ in range(level["blocks"]))
            else:
                made = (ResBlock(channels, embedding, drop) for _ in range(level["blocks"]))
            return nn.ModuleList(made)

        self.position = nn.Parameter(0.01 * torch.randn(1, channels, *side)) if self.attends else None
        self.down_blocks, self.lower = blocks(), None
        if lower:
            self.down, self.up = (
                nn.Conv2d(channels, lower[0]["channels"], 1),
                nn.Conv2d(lower[0]["channels"], channels, 1),
            )
            self.lower, self.up_blocks = Level(lower, embedding, (side[0] // 2, side[1] // 2)), blocks()

    def _run(self, blocks, h, emb):
        if not self.attends:
            for block in blocks:
                h = block(h, emb)
            return h
        batch, channels, height, width = h.shape
        h = h.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        for block in blocks:
            h = block(h, emb)
        return h.reshape(batch, height, width, channels).permute(0, 3, 1, 2)

    def forward(self, h, emb):
        h = self._run(self.down_blocks, h if self.position is None else h + self.position, emb)
        if self.lower is None:
            return h
        d = self.down(F.avg_pool2d(h, 2))
        up = self.up(self.lower(d, emb) - d)
        return self._run(self.up_blocks, F.interpolate(up, scale_factor=2) + h, emb)


class PlainUViT(nn.Module):
    """(z_t [B, C, H, W], logsnr [B], labels [B] or None) -> [B, C, H, W], of a ResidualUViT's configuration."""

    def __init__(self, image_shape, patch_size, num_classes, embedding_dim, levels):
        super().__init__()
        height, width, colours = image_shape
        self.register_buffer("frequencies", torch.logspace(-0.8, 1.4, 128), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(256, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim))
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, embedding_dim)
        self.patchify = nn.Conv2d(colours, levels[0]["channels"], patch_size, patch_size)
        self.level = Level(list(levels), embedding_dim, (height // patch_size, width // patch_size))
        self.unpatchify = nn.ConvTranspose2d(levels[0]["channels"], colours, patch_size, patch_size)

    def forward(self, z_t, logsnr, labels):
        angles = logsnr[:, None] * self.frequencies
        emb = self.mlp(torch.cat([angles.sin(), angles.cos()], -1))
        emb = F.silu(emb if self.classes is None else emb + self.classes(labels))
        return self.unpatchify(self.level(self.patchify(z_t), emb))


def plain_network(config: dict) -> PlainUViT:
    """Of ResidualUViT.get_config()."""
    names = ("image_shape", "patch_size", "num_classes", "embedding_dim", "levels")
    return PlainUViT(**{name: config[name] for name in names})


def multiply_adds(make, image_shape) -> int:
    """Of a forward pass of one image by make(), counted without computing."""
    height, width, colours = image_shape
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        make()(torch.zeros(1, colours, height, width), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    return counter.get_total_flops() // 2


class Trainer:
    """`step(images uint8 [B, H, W, C], labels int32 [B] or none)` -> loss; network(z_t, logsnr, labels) -> v_hat.

    v-prediction on the cosine schedule, a tenth of the labels dropped, clipping at 1, Adam, averages at 0.9999.
    """

    def __init__(self, network, num_classes: int | None, dtype: str, compiled: bool):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.to(self.device).to(memory_format=torch.channels_last).train()
        self.num_classes, self.half = num_classes, dtype == "mixed_bfloat16"
        self.weights = list(self.network.parameters())
        self.averages = [w.detach().clone() for w in self.weights]
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(self.weights, lr=1e-4, betas=(0.9, 0.99), fused=fused, foreach=not fused)
        self._forward = torch.compile(self.network) if compiled else self.network

    def _loss(self, images, labels):
        x = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        t = torch.rand(len(x), device=self.device).clamp(1e-3, 1 - 1e-3) * (math.pi / 2)
        eps, alpha, sigma = torch.randn_like(x), t.cos()[:, None, None, None], t.sin()[:, None, None, None]
        logsnr = -2.0 * t.tan().log()
        if labels is not None:
            labels = torch.where(torch.rand(len(x), device=self.device) < 0.1, self.num_classes, labels)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            v_hat = self._forward(alpha * x + sigma * eps, logsnr, labels)
        squares = (v_hat.float() - (alpha * eps - sigma * x)).square().mean((1, 2, 3))
        return (torch.sigmoid(-logsnr) * squares).mean()

    def step(self, images, labels=None):
        images = torch.from_numpy(images).to(self.device, non_blocking=True)
        labels = None if labels is None else torch.from_numpy(labels).to(self.device).long()
        loss = self._loss(images, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.weights, 1e-4)
        return loss.detach()

"""The masks told from the image encoder's BEV map, before neck and recurrence: a head for training alone.

Through e_t, h_t and z_t the masks teach the cameras little: a car is a few of 3000 numbers there. Told cell by cell,
where it stands, it is seen sooner. BEVFormer segments its map by such a head, too (section 4.4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from agent.model.heads import MaskHead
from agent.model.image_encoder import EncoderConfig
from agent.model.mask_decoder import SHOWN_MASKS
from agent.model.raw_model import RawNeckConfig, seen_ground

HIDDEN = 48
RARE_WEIGHT = 8.0
"""Of a set pixel against an unset one, for all masks that cover little ground."""
WIDE_MASKS = ("road", "ego_lanes", "lane_lines")


class LiftedMasks(nn.Module):
    """Logits of `SHOWN_MASKS` on twice the resolution of the BEV map, and their loss."""

    weight: Tensor

    def __init__(self, encoder: EncoderConfig, neck: RawNeckConfig, size_px: int) -> None:
        """size_px: side of the masks, which cover the neck's window. Raises: ValueError if the map is larger."""
        super().__init__()
        self._encoder = encoder
        self._rows, self._columns = rows, columns = seen_ground(neck, encoder, size_px)
        if min(rows.start, columns.start) < 0 or max(rows.stop, columns.stop) > size_px:
            raise ValueError(
                f"guidance.lifted: the BEV map covers {encoder.bev_range_m} m, which the masks ({neck.window_m:g} m "
                "along each side) do not; leave it at 0"
            )
        self.head = MaskHead(encoder.embed_dims, HIDDEN, len(SHOWN_MASKS))
        weight = [1.0 if name in WIDE_MASKS else RARE_WEIGHT for name in SHOWN_MASKS]
        self.register_buffer("weight", torch.tensor(weight)[:, None, None], persistent=False)

    def forward(self, bev: Float[Tensor, "n cells d"]) -> Float[Tensor, "n masks rows columns"]:
        """Logits; row 0 is the rearmost, column 0 the leftmost, as in the BEV map."""
        encoder = self._encoder
        return self.head(bev.transpose(1, 2).unflatten(2, (encoder.bev_rows, encoder.bev_columns)))

    def target(self, words: Int64[Tensor, "n h w"], size: tuple[int, int]) -> Float[Tensor, "n masks rows columns"]:
        """The true masks on the ground of the BEV map, at its logits' size."""
        inside = words[:, self._rows, self._columns].flip(1)
        bits = torch.tensor([sum(1 << channel for channel in channels) for channels in SHOWN_MASKS.values()])
        masks = ((inside[:, None] & bits.to(words.device)[:, None, None]) != 0).float()
        return masks if masks.shape[2:] == size else F.adaptive_max_pool2d(masks, size)

    def loss(self, bev: Float[Tensor, "b t cells d"], words: Int64[Tensor, "b t h w"]) -> Float[Tensor, ""]:
        """Cross entropy per mask, set pixels of rare ones weighted, mean over pixels, summed over masks."""
        logits = self(bev.flatten(0, 1)).float()
        target = self.target(words.flatten(0, 1), (logits.shape[2], logits.shape[3]))
        loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=self.weight, reduction="none")
        return loss.mean((0, 2, 3)).sum()

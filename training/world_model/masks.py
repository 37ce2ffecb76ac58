"""Mask words (one uint64 per pixel, one bit per channel) as tensors: byte views, the byte table, cutting into patches.

torch has no arithmetic on uint64, so words travel as int64 with the same bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from agent.model.mask_decoder import BITS


def word_bytes(channels: int) -> int:
    """Bytes of a word that hold channels."""
    return -(-channels // BITS)


def byte_table(device: torch.device | None = None) -> Float[Tensor, "256 8"]:
    """Row b holds the bits of b, lowest first."""
    return ((torch.arange(256, device=device)[:, None] >> torch.arange(BITS, device=device)) & 1).float()


def as_bytes(words: Int64[Tensor, "*batch h w"], channels: int) -> UInt8[Tensor, "*batch h w bytes"]:
    """The bytes of each word that hold channels, lowest first (little-endian memory, as on every supported machine)."""
    return words.contiguous().view(torch.uint8).unflatten(-1, (words.shape[-1], 8))[..., : word_bytes(channels)]


def unpack(words: Int64[Tensor, "*batch h w"], channels: int, table: Tensor) -> Float[Tensor, "*batch h w padded"]:
    """0/1 masks, channels last, padded to whole bytes."""
    return F.embedding(as_bytes(words, channels).int(), table).flatten(-2)


def cut_patches(
    words: Int64[Tensor, "n h w"], channels: int, patch: int
) -> UInt8[Tensor, "n rows columns patch_bytes"]:
    """Bytes of patch x patch pixels: (n, h / patch, w / patch, patch * patch * bytes); pixels row by row in a patch."""
    n, h, w = words.shape
    patches = words.reshape(n, h // patch, patch, w // patch, patch).transpose(2, 3).contiguous()
    return as_bytes(patches, channels).reshape(n, h // patch, w // patch, -1)

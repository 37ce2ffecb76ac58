"""Small tensors of fixed numbers, made once per device: copying them in every frame would wait for the device, and a
CUDA graph cannot record such a copy."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers as a tensor (n,); shared by all callers, so never written to."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype)

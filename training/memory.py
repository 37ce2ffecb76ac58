"""Memory that the process keeps after freeing it."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES, _PAD_BYTES, _LARGEST_BYTES = 2**31 - 1, 2**26, 2**25


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory instead of returning it to the system; whether it could be told so.

    An update frees and takes the same large tensors again and again. Where the system is slow to hand out pages, as
    virtual machines can be, that costs a sixth of the update. Elsewhere than with glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = {_M_MMAP_THRESHOLD: _LARGEST_BYTES, _M_TRIM_THRESHOLD: _KEPT_BYTES, _M_TOP_PAD: _PAD_BYTES}
    return all(mallopt(option, value) for option, value in wanted.items())

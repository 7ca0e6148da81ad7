"""Memory: what to do when it is short, and how not to ask for it again and again."""

import ctypes
import platform
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from torch import Tensor


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors instead of returning it to the system.

    Otherwise every training step on a CPU pays for the pages of its activations again:
    ``tests/benchmarks/training_speed.py`` measures it. Other allocators are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        libc = ctypes.CDLL(None)
        # Older versions take no more than 32 MiB. The first without the second would be harmful.
        if libc.mallopt(m_mmap_threshold, 2**30) or libc.mallopt(m_mmap_threshold, 2**25):
            libc.mallopt(m_trim_threshold, 2**31 - 1)


def halve_when_out_of_memory(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Have a function, such as ``ScoreModule.draw``, draw fewer samples at a time if need be.

    It then raises ``MemoryError`` if not even one sample fits into the memory.
    """

    def halved(start: int, stop: int, label: Tensor | None = None, **kwargs: Any) -> Tensor:
        try:
            return draw(start, stop, label, **kwargs)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
        # Here the exception is gone, and with it the tensors that its traceback held.
        garbage_collection_cuda()
        half = (stop - start) // 2
        if not half:
            raise MemoryError("there is not enough memory for a single sample")
        warnings.warn(f"out of memory: drawing {half} samples at a time", stacklevel=2)
        first, rest = (None, None) if label is None else (label[:half], label[half:])
        middle = start + half
        parts = [halved(start, middle, first, **kwargs), halved(middle, stop, rest, **kwargs)]
        return torch.cat(parts)

    return halved

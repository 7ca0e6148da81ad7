"""Memory: what to do when it is short, and how not to ask for it again and again."""

import ctypes
import platform
import warnings
from collections.abc import Callable

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


def halve_when_out_of_memory(score: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Have ``ScoreModule.score`` evaluate fewer examples at a time if need be, without gradients.

    It then raises ``MemoryError`` if not even one example fits into the memory.
    """
    limit = 2**31

    def halved(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        nonlocal limit
        given = [x, sigma] if label is None else [x, sigma, label]
        training = torch.is_grad_enabled()  # the gradient would need all parts at once
        size = len(x) if training else min(limit, len(x))
        parts = zip(*(each.split(size) for each in given), strict=True)
        try:
            return torch.cat([score(*part) for part in parts])
        except RuntimeError as error:
            if training or not is_oom_error(error):
                raise
        # Here the exception is gone, and with it the tensors that its traceback held.
        garbage_collection_cuda()
        if not (limit := size // 2):
            raise MemoryError(
                "there is not enough memory for a single sample: lower the size of model.network"
            )
        warnings.warn(f"out of memory: evaluating {limit} samples at a time", stacklevel=2)
        return halved(*given)

    return halved

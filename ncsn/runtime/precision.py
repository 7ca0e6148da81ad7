"""The precision that the hardware computes fast: ``--trainer.precision auto``."""

import math
import time
from typing import Any, Literal

import lightning.pytorch as pl
import torch

MIN_SPEED = 1.25  # of bfloat16 over float32, beyond the error of the measurement
MINIMA = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": 0}
"""Of options that Lightning does not check."""


class Trainer(pl.Trainer):
    """Lightning's trainer, whose precision may also be ``auto``; see :func:`fast_precision`.

    Args:
        args: Lightning's.
        precision: 32-true, bf16-mixed, 16-mixed, 64-true ..., or auto: bf16-mixed where the
            device computes it fast, and 32-true elsewhere.
        kwargs: Lightning's.

    Raises:
        ValueError: If a number is outside its domain.
    """

    def __init__(self, *args: Any, precision: str | int | None = None, **kwargs: Any) -> None:
        resolved: Any = precision  # which Lightning checks
        if precision == "auto":
            resolved, _ = fast_precision(kwargs.get("accelerator", "auto"))
        for name, least in MINIMA.items():
            value = kwargs.get(name)
            if isinstance(value, int | float) and not value >= least:
                raise ValueError(f"trainer.{name} must be at least {least}, got {value}")
        super().__init__(*args, precision=resolved, **kwargs)


def fast_precision(accelerator: Any) -> tuple[Literal["bf16-mixed", "32-true"], str]:
    """The precision for an accelerator, as the trainer names it, and why.

    That is bf16-mixed on GPUs that have bfloat16 in hardware (of NVIDIA's from Ampere on), and on
    CPUs with AVX512-BF16 or AMX on which a convolution is faster in bfloat16; it is 32-true
    elsewhere. CPUs are measured, since AVX512-BF16 without AMX is slower than float32 on some.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        why = f"{torch.cuda.get_device_name()} has {'' if fast else 'no '}bfloat16"
    elif accelerator == "cpu" or (accelerator == "auto" and not torch.backends.mps.is_available()):
        # torch 2.11 has no such function yet.
        flags: Any = getattr(torch.cpu, "get_capabilities", dict)()
        fast, why = False, "the CPU has no AVX512-BF16 or AMX"
        if flags.get("avx512_bf16") or flags.get("amx_bf16"):
            speed = bfloat16_speed()
            fast = speed >= MIN_SPEED
            why = f"the CPU convolves {speed:.1f} times as fast in bfloat16 as in float32"
    else:
        fast, why = False, f"accelerator {accelerator} has no rule"
    return "bf16-mixed" if fast else "32-true", why


def bfloat16_speed(rounds: int = 5) -> float:
    """How many times as fast the CPU trains a convolution in bfloat16 as in float32.

    Takes about 0.2 s. The two take turns, and the shortest time of each counts, so that it hardly
    matters what else the machine does.
    """
    shortest = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    for _ in range(rounds):
        for dtype in shortest:
            x = torch.ones(8, 128, 14, 14, dtype=dtype, requires_grad=True)
            weight = torch.ones(128, 128, 3, 3, dtype=dtype, requires_grad=True)
            start = time.perf_counter()
            torch.conv2d(x, weight, padding=1).sum().backward()
            shortest[dtype] = min(shortest[dtype], time.perf_counter() - start)
    return shortest[torch.float32] / shortest[torch.bfloat16]

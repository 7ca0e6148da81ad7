"""The precision that the hardware computes fast: ``--trainer.precision auto``."""

from typing import Any, Literal

import lightning.pytorch as pl
import torch


class Trainer(pl.Trainer):
    """Lightning's trainer, whose precision may also be ``auto``; see :func:`fast_precision`.

    Args:
        args: Lightning's.
        precision: 32-true, bf16-mixed, 16-mixed, 64-true ..., or auto: bf16-mixed where the
            device computes it fast, and 32-true elsewhere.
        kwargs: Lightning's.
    """

    def __init__(self, *args: Any, precision: str | int | None = None, **kwargs: Any) -> None:
        resolved: Any = precision  # which Lightning checks
        if precision == "auto":
            resolved, _ = fast_precision(kwargs.get("accelerator", "auto"))
        super().__init__(*args, precision=resolved, **kwargs)


def fast_precision(accelerator: Any) -> tuple[Literal["bf16-mixed", "32-true"], str]:
    """The precision for an accelerator, as the trainer names it, and why.

    That is bf16-mixed on GPUs that have bfloat16 in hardware (of NVIDIA's from Ampere on) and on
    CPUs with AVX512-BF16 or AMX, and 32-true elsewhere. It is read from what the hardware says of
    itself and not measured, so that the same hardware always gives the same answer.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        device, unit = torch.cuda.get_device_name(), "bfloat16"
    elif accelerator == "cpu" or (accelerator == "auto" and not torch.backends.mps.is_available()):
        # torch 2.11 has no such function yet.
        flags: Any = getattr(torch.cpu, "get_capabilities", dict)()
        fast = bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
        device, unit = "the CPU", "AVX512-BF16 or AMX"
    else:
        fast, device, unit = False, f"accelerator {accelerator}", "a rule"
    return "bf16-mixed" if fast else "32-true", f"{device} has {'' if fast else 'no '}{unit}"

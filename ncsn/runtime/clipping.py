"""Clipping the gradients of fused optimizers in mixed precision."""

from typing import Any


def clippable(optimizer: Any) -> Any:
    """An optimizer that gets gradients which are unscaled already, so that they can be clipped.

    Fused ones announce that they unscale gradients themselves, in the step and thus after the
    clipping. Lightning then refuses to clip, even under bf16-mixed, which scales nothing.
    """
    optimizer._step_supports_amp_scaling = False
    return optimizer

"""The gradients of fused optimizers in mixed precision."""

from typing import Any


def clippable(optimizer: Any) -> Any:
    """An optimizer that gets gradients which are unscaled already, to clip them and to log them.

    Fused ones announce that they unscale gradients themselves, in the step and thus after the
    clipping. Lightning then refuses to clip, even under bf16-mixed, which scales nothing, and
    under 16-mixed callbacks see gradients with the scale of the loss.
    """
    optimizer._step_supports_amp_scaling = False
    return optimizer

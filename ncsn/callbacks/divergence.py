"""Checks of the numbers: loss, gradient and weights."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

ADVICE = (
    "resume from the last checkpoint, saved before this, with trainer.gradient_clip_val or "
    "another trainer.precision, or train again with a lower lr of model.optimizer"
)


class Divergence(Callback):
    """Stops a training whose numbers are not finite, and warns of spikes of the loss.

    Loss and gradient are checked when they are logged; on one CPU process, the loss at each step.
    Checking more often would synchronise a GPU or several processes. The norm of the gradient is
    logged as ``train/grad_norm``.
    """

    usual_loss: float | None = None
    bad_gradient = False

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the norm of the gradient."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or (trainer.global_step + 1) % every:  # 0: never
            return
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # In float16, steps that overflow are skipped.
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self.bad_gradient = not scaled and not norm.isfinite()  # ranks have the same gradient
        pl_module.log("train/grad_norm", norm)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """Check the loss of each example.

        Raises:
            FloatingPointError: If a loss or the gradient is not finite.
        """
        losses, sigma = outputs["losses"], outputs["sigma"]
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = every and trainer.global_step % every == 0
        if due or self.bad_gradient or not (losses.is_cuda or trainer.world_size > 1):
            step = max(0, trainer.global_step - 1)
            self._check_losses(trainer, losses, sigma, step)
            if self.bad_gradient:
                raise FloatingPointError(f"the gradient is not finite at step {step}: {ADVICE}")
            if due:
                self.warn_of_spike(losses, sigma, step)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep weights that are not finite out of checkpoints.

        Raises:
            FloatingPointError: If there are any.
        """
        states = (checkpoint["state_dict"], checkpoint.get("current_model_state", {}))
        if not all(value.isfinite().all() for state in states for value in state.values()):
            step = trainer.global_step
            raise FloatingPointError(f"weights are not finite at step {step}: {ADVICE}")

    def warn_of_spike(self, losses: Tensor, sigma: Tensor, step: int) -> None:
        """Warn if losses at levels ``sigma``, both ``(batch,)``, far exceed the usual ones."""
        loss, usual = losses.mean().item(), self.usual_loss
        if usual is not None and loss > 10 * usual:
            rank_zero_warn(
                f"the loss of step {step} is {loss:.3g}, {loss / usual:.0f} times the usual "
                f"{usual:.3g}; most of it is at noise level {sigma[losses.argmax()]:.3g}"
            )
        self.usual_loss = loss if usual is None else 0.9 * usual + 0.1 * loss

    @staticmethod
    def _check_losses(trainer: Trainer, losses: Tensor, sigma: Tensor, step: int) -> None:
        finite = losses.isfinite()
        if not trainer.strategy.reduce_boolean_decision(bool(finite.all())):
            bad = sigma if finite.all() else sigma[~finite]  # another rank's are unknown
            raise FloatingPointError(
                f"the loss is not finite at step {step}, at noise levels from "
                f"{bad.min().item():.3g} to {bad.max().item():.3g}: {ADVICE}"
            )

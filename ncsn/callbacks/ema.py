"""The exponential moving average of the weights."""

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def decay_after(n_averaged: int, decay: float) -> float:
    """The decay after n updates: min(decay, (1 + n) / (10 + n)), and 0 at the first, which copies.

    So the initial random weights are soon forgotten, and early validations mean something.

    Source: The warm-up of TensorFlow's ``ExponentialMovingAverage``, argument ``num_updates``.
    """
    return min(decay, (1 + n_averaged) / (10 + n_averaged)) if n_averaged else 0.0


class EMA(Callback):
    """Validates, samples and saves with an exponential moving average of the network's weights.

    Checkpoints hold the average in ``state_dict`` and the weights in ``current_model_state``.
    Unlike Lightning's ``WeightAveraging``, the update never synchronises with the device.

    Args:
        decay: The decay in the long run, in [0, 1); 0 turns the average off.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay must be in [0, 1), got {decay}")
        self.decay, self.n_averaged = decay, 0  # updates so far
        self._average: list[Tensor] = []
        self._weights: list[Tensor] = []  # while the average is in their place
        self._last_weights: list[Tensor] = []  # after the training
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights, or from the average of the checkpoint."""
        self._step, self._last_weights = trainer.global_step, []
        if self.decay:
            weights = _parameters(pl_module).values()
            pairs = zip(self._average or weights, weights, strict=True)
            self._average = [
                # In half precision, the small steps of an average are lost.
                average.detach().to(
                    weight.device, torch.promote_types(weight.dtype, torch.float32), copy=True
                )
                for average, weight in pairs
            ]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Update the average after a step of the optimizer."""
        if self._average and trainer.global_step > self._step:
            self._step = trainer.global_step
            update = get_ema_multi_avg_fn(decay_after(self.n_averaged, self.decay))
            pairs = zip(self._average, _parameters(pl_module).values(), strict=True)
            weights = [weight.detach().to(average.dtype) for average, weight in pairs]
            update(self._average, weights, self.n_averaged)
            self.n_averaged += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in place of the weights."""
        if self._average and trainer.state.fn == TrainerFn.FITTING:
            self._weights = _clone_weights(pl_module)
            _copy(self._average, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights back."""
        _copy(self._weights, pl_module)
        self._weights = []

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Put the weights back if a validation was stopped."""
        self.on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in place of the weights."""
        self._last_weights = _clone_weights(pl_module)
        _copy(self._average, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for a finished run, which has been resumed but had nothing left to do."""
        if not self._last_weights:
            self.on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average as ``state_dict``, and the weights as ``current_model_state``."""
        if self._average:
            names, state = list(_parameters(pl_module)), checkpoint["state_dict"]
            weights = zip(names, self._last_weights, strict=False)
            checkpoint["current_model_state"] = {**state, **dict(weights)}
            checkpoint["state_dict"] = {**state, **dict(zip(names, self._average, strict=True))}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take back the weights; Lightning has loaded the average into the module."""
        if trainer.training and "current_model_state" in checkpoint:
            self._last_weights = []
            if self.decay:
                self._average = [checkpoint["state_dict"][name] for name in _parameters(pl_module)]
            pl_module.load_state_dict(checkpoint["current_model_state"])

    def state_dict(self) -> dict[str, Any]:
        """The number of updates."""
        return {"n_averaged": self.n_averaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue to count."""
        self.n_averaged = state_dict["n_averaged"]


def _parameters(pl_module: LightningModule) -> dict[str, nn.Parameter]:
    """The network's parameters, by their name in the module."""
    network = cast(nn.Module, pl_module.network)
    return {f"network.{name}": parameter for name, parameter in network.named_parameters()}


def _clone_weights(pl_module: LightningModule) -> list[Tensor]:
    return [weight.detach().clone() for weight in _parameters(pl_module).values()]


@torch.no_grad()
def _copy(values: list[Tensor], pl_module: LightningModule) -> None:
    """Copy values, if there are any, into the network's parameters."""
    if values:
        for parameter, value in zip(_parameters(pl_module).values(), values, strict=True):
            parameter.copy_(value)

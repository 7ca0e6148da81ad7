"""Checks before anything takes time."""

from copy import copy
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ncsn.callbacks.common import evaluation_mode, num_epochs
from ncsn.sampling import Sampler

if TYPE_CHECKING:
    from ncsn.modules import ScoreModule


class Preflight(Callback):
    """Says what ``auto`` was replaced by, and tries the network on the data before a fit."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a network that does not fit the shape or the classes of the data."""
        module, data = cast("ScoreModule", pl_module), cast(Any, trainer).datamodule
        for name, value in module.auto_values.items():
            rank_zero_info(f"auto: {name} = {value:.4g}")
        strategy, precision = trainer.strategy, trainer.precision
        if not strategy.reduce_boolean_decision(strategy.broadcast(precision) == precision):
            raise ValueError(
                f"processes differ in what is fast, {precision} on this one: name one instead of "
                f"'auto', such as --trainer.precision {precision}"
            )
        if stage != "fit":
            return  # the checkpoint has been compared with the data
        if module.network.num_classes:
            check_classes(module.network.num_classes, data)
        mean, sigma_max = module.data_mean.item(), module.noise_levels[0].item()
        if len(module.noise_levels) > 1 and abs(mean) > sigma_max:
            rank_zero_warn(
                f"samplers start at N(0, sigma_max²), and the mean of the data, {mean:.4g}, is "
                f"beyond sigma_max={sigma_max:.4g}: centre the data, or raise model.sigma_max"
            )
        # Not module.device: that is the trainer's already, and the weights are not there yet.
        name, device = type(module.network).__name__, module.noise_levels.device
        x = torch.zeros(1, *module.data_shape, device=device)
        misfit = f"model.network {name} does not fit data of shape {module.data_shape}"
        try:
            with torch.no_grad(), evaluation_mode(module):
                output = module.network(x, torch.ones(1, device=device))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{misfit}: {error}") from error
        if output.shape != x.shape:
            raise ValueError(f"{misfit}: it returns {tuple(output.shape[1:])}")
        try_sampler(module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a schedule that ends before the training, also when it is resumed."""
        for config in trainer.lr_scheduler_configs:
            step = config.interval == "step"
            steps = trainer.estimated_stepping_batches if step else num_epochs(trainer)
            end = getattr(config.scheduler, "total_steps", steps)
            if steps > end:
                name, unit = type(config.scheduler).__name__, f"{config.interval}s"
                longer = "again without --ckpt_path" if trainer.ckpt_path else "without its length"
                raise ValueError(
                    f"{name} ends after {end} {unit}, but training takes {steps} with these "
                    f"devices, batches and epochs: stop it there with --trainer.max_{unit} {end}, "
                    f"or train {longer}"
                )


def check_classes(num_classes: int, data: Any) -> None:
    """Warn if the training data lacks some of the network's classes.

    Raises:
        ValueError: If the data has more classes than the network.
    """
    if data.num_classes > num_classes:
        raise ValueError(
            f"the data has {data.num_classes} classes, but model.network.num_classes="
            f"{num_classes}: raise it, or set it to 0 for a model without classes"
        )
    counts = data.splits["train"].labels.bincount(minlength=num_classes)
    if missing := (counts == 0).nonzero().flatten().tolist():
        which = ", ".join(map(str, missing))
        rank_zero_warn(
            f"the training data has no examples of class {which} of "
            f"model.network.num_classes={num_classes}, so samples of it mean nothing: "
            "number the labels from 0 without gaps"
        )


def try_sampler(module: "ScoreModule") -> None:
    """Take the first step of the module's sampler, which is otherwise used after the training.

    Raises:
        ValueError: If it does not return states.
    """
    sampler, levels = copy(module.sampler), module.sampling_levels
    sampler.acceptance = {}
    path, generator = sampler.path(levels), torch.Generator(levels.device)
    if type(sampler).__call__ is not Sampler.__call__ or len(path) < 2:
        return
    x = sampler.initial(levels.new_empty(2, *module.data_shape), levels, generator)

    def score(x: torch.Tensor, sigma: float) -> torch.Tensor:
        label = module.labels_in_turn(0, len(x))
        return module.score(x, x.new_full((len(x),), sigma), label)

    with torch.no_grad(), evaluation_mode(module):
        y: Any = sampler.step(score, x, path[0], path[1], generator)
    if not isinstance(y, torch.Tensor) or y.shape != x.shape:
        what = f"shape {tuple(y.shape)}" if isinstance(y, torch.Tensor) else repr(y)
        raise ValueError(
            f"model.sampler {type(sampler).__name__}.step must return a tensor of the shape of x, "
            f"{tuple(x.shape)}, and returns {what}"
        )

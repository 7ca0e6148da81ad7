"""One thread where two would wait for each other."""

import os
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.flop_counter import FlopCounterMode

from ncsn.callbacks.common import data_of, evaluation_mode


class OneThread(Callback):
    """Trains a small network with one thread; validation and sampling have those of the process.

    Torch shares each operation among its threads, which wait for each other at its end. On a CPU,
    a network whose forward pass of one batch takes less than ``FLOPS`` of arithmetic is trained
    with one, unless ``OMP_NUM_THREADS`` says how many there are to be. The count is that of matrix
    products and convolutions.
    """

    FLOPS = 50e6

    def __init__(self) -> None:
        self.given: int | None = None  # the threads of the process, where training has one

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the arithmetic, and decide."""
        self.given, given = None, torch.get_num_threads()
        cpu = trainer.strategy.root_device.type == "cpu"
        if not cpu or given == 1 or "OMP_NUM_THREADS" in os.environ:
            return
        module: Any = pl_module
        x, sigma = torch.zeros(1, *module.data_shape), torch.ones(1)
        with torch.no_grad(), evaluation_mode(module), FlopCounterMode(display=False) as counter:
            module.score(x, sigma, module.labels_in_turn(0, len(x)))
        if counter.get_total_flops() * data_of(trainer).batch_size < self.FLOPS:
            self.given = given
            torch.set_num_threads(1)
            rank_zero_info(
                f"training with one thread: the network is too small for {given} "
                f"(set OMP_NUM_THREADS={given} to use them all)"
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the threads back for a while."""
        if self.given is not None:
            torch.set_num_threads(self.given)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Return to one thread."""
        if self.given is not None:
            torch.set_num_threads(1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the threads back."""
        self.on_validation_start(trainer, pl_module)
        self.given = None

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give the threads back."""
        self.on_train_end(trainer, pl_module)

"""Trains the feature networks in which samples are compared."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms.v2 import RandomAffine

from ncsn.evaluation.features import FeatureName, FeatureNetwork
from ncsn.evaluation.features.network import SHIPPED


class FeatureClassifier(pl.LightningModule):
    """Trains a :class:`ncsn.evaluation.features.FeatureNetwork` as a classifier.

    AdamW with the one-cycle schedule, on images that are rotated, moved and resized a little.

    Args:
        name: The data set, which decides the network's size.
        lr: The largest learning rate.
    """

    def __init__(self, name: FeatureName = "mnist", lr: float = 3e-3) -> None:
        super().__init__()
        self.network = FeatureNetwork(SHIPPED[name].image_size, SHIPPED[name].widths)
        self.lr, self.augment = lr, RandomAffine(10, (0.1, 0.1), (0.9, 1.1), fill=-1.0)
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy; each quarter of the batch is transformed in its own way."""
        x, label = batch
        x = torch.cat([self.augment(part) for part in x.chunk(4)])
        loss: Tensor = self.loss(self.network(x).logits, label)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The accuracy."""
        x, label = batch
        self.accuracy(self.network(x).logits, label)
        stage = "test" if self.trainer.testing else "val"
        self.log(f"{stage}/accuracy", self.accuracy, prog_bar=True)

    test_step = validation_step

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with the one-cycle schedule over the whole training."""
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        scheduler: Any = {"scheduler": schedule, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

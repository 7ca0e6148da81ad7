"""Trains the feature networks in which samples are compared."""

from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms.v2 import RandomAffine

from ncsn.evaluation.features import FeatureNetwork
from ncsn.evaluation.images import Images


class FeatureClassifier(pl.LightningModule):
    """Trains a :class:`ncsn.evaluation.features.FeatureNetwork` as a classifier.

    AdamW with the one-cycle schedule, on images that are rotated, moved and resized a little.

    Args:
        name: Name of the data set, under which everything measured in the features is reported.
        widths: Channels of each stage of the network; their number of pixels halves in between.
        lr: The largest learning rate.
    """

    network: FeatureNetwork

    def __init__(
        self, name: str = "own", widths: tuple[int, ...] = (24, 48, 64), lr: float = 3e-3
    ) -> None:
        super().__init__()
        self.name, self.widths = name, widths
        self.lr, self.augment = lr, RandomAffine(10, (0.1, 0.1), (0.9, 1.1), fill=-1.0)
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)

    def configure_model(self) -> None:
        """Make the network for the trainer's data.

        Raises:
            ValueError: If that has no classes, or no images.
        """
        if hasattr(self, "network"):
            return
        data = cast(Any, self.trainer).datamodule
        if not isinstance(data.kind, Images) or data.num_classes < 2:
            raise ValueError(
                f"{type(data).__name__} has no images of several classes, and the features are "
                "those of a classifier: evaluate compares its samples without"
            )
        channels, height, width = data.data_shape
        self.network = FeatureNetwork((height, width), self.widths, data.num_classes, channels)
        self.network.name = self.name
        self.accuracy = MulticlassAccuracy(data.num_classes, average="micro")

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

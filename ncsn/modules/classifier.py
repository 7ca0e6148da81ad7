"""Trains the feature networks in which samples are compared."""

from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from ncsn.evaluation.classifier import classification_loss, one_cycle
from ncsn.evaluation.features import FeatureNetwork
from ncsn.evaluation.images import Images


class FeatureClassifier(pl.LightningModule):
    """Trains a :class:`ncsn.evaluation.features.FeatureNetwork` as a classifier.

    By the recipe of :mod:`ncsn.evaluation.classifier`.

    Args:
        name: Name of the data set, under which everything measured in the features is reported.
        widths: Channels of each stage of the network; their number of pixels halves in between.
        lr: The largest learning rate, > 0.

    Raises:
        ValueError: If a value is outside its domain.
    """

    network: FeatureNetwork

    def __init__(
        self, name: str = "own", widths: tuple[int, ...] = (24, 48, 64), lr: float = 3e-3
    ) -> None:
        super().__init__()
        if not (widths and min(widths) >= 1 and lr > 0):
            raise ValueError(f"widths must be >= 1 and lr > 0, got {widths} and {lr}")
        self.name, self.widths, self.lr = name, widths, lr

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
        """See :func:`ncsn.evaluation.classifier.classification_loss`."""
        loss = classification_loss(self.network, *batch)
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
        """See :func:`ncsn.evaluation.classifier.one_cycle`."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = one_cycle(self.parameters(), self.lr, steps)
        scheduler: Any = {"scheduler": schedule, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

"""Trains a feature network, in which samples are compared; see :mod:`ncsn.evaluation.features`.

``python -m ncsn features fit --config configs/features/mnist.yaml``

The run's directory then holds ``features.safetensors``; the accuracy on the test images and the
file's SHA-256 are printed. A network is shipped by copying the file to
``ncsn/evaluation/features/weights`` and writing its checksum into ``network.py`` beside it, with a
new version.
"""

import hashlib
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from safetensors.torch import save
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms.v2 import RandomAffine

from ncsn.cli.parser import Parser
from ncsn.data import InMemoryDataModule
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


class FeaturesCLI(LightningCLI):
    """Tests the network when it is trained, and writes its weights."""

    def after_fit(self) -> None:
        """Measure the accuracy on the test images, and write ``features.safetensors``."""
        self.trainer.test(self.model, self.datamodule)
        weights = self.model.network.state_dict()
        data = save({name: tensor.contiguous() for name, tensor in weights.items()})
        path = Path(self.trainer.log_dir or "") / "features.safetensors"
        if self.trainer.is_global_zero:
            path.write_bytes(data)
        rank_zero_info(f"{path}: {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")


def train_features(args: list[str]) -> None:
    """Run ``ncsn features`` with a command of LightningCLI and its options."""
    FeaturesCLI(
        FeatureClassifier,
        InMemoryDataModule,
        subclass_mode_data=True,
        seed_everything_default=0,
        parser_class=Parser,
        parser_kwargs={"prog": "ncsn features"},
        args=args,
    )

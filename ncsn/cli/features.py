"""Trains a feature network, in which samples are compared; see :mod:`ncsn.evaluation.features`.

``python -m ncsn features fit --config configs/features/mnist.yaml``

The run's directory then holds ``features.safetensors``; the accuracy on the test images and the
file's SHA-256 are printed. A network is shipped by copying the file to
``ncsn/evaluation/features/weights`` and writing its checksum into ``network.py`` beside it, with a
new version.
"""

import hashlib
from pathlib import Path

from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import save

from ncsn.cli.parser import Parser
from ncsn.data import InMemoryDataModule
from ncsn.modules.classifier import FeatureClassifier


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

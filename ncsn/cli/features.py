"""Trains a feature network, in which samples are compared; see :mod:`ncsn.evaluation.features`.

``python -m ncsn features fit --config configs/features/mnist.yaml``

The run's directory then holds ``features.safetensors``; the accuracy on the test images and the
file's SHA-256 are printed. A network is shipped by copying the file to
``ncsn/evaluation/features/weights`` and writing its checksum into ``network.py`` beside it, with a
new version.
"""

from pathlib import Path

from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from ncsn.cli.parser import Parser
from ncsn.data import InMemoryDataModule
from ncsn.evaluation.features import save_features
from ncsn.modules.classifier import FeatureClassifier

DEFAULTS = {
    "max_epochs": 20,
    "log_every_n_steps": 10,
    "enable_checkpointing": False,
    "logger": {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "lightning_logs", "name": "features"},
    },
}


class FeaturesCLI(LightningCLI):
    """Tests the network when it is trained, and writes its weights."""

    def after_fit(self) -> None:
        """Measure the accuracy on the test images, and write ``features.safetensors``."""
        self.trainer.test(self.model, self.datamodule)
        path = Path(self.trainer.log_dir or "") / "features.safetensors"
        if self.trainer.is_global_zero:
            checksum = save_features(self.model.network, path)
            rank_zero_info(f"{path}: SHA-256 {checksum}; evaluate takes it as --features")


def train_features(args: list[str]) -> None:
    """Run ``ncsn features`` with a command of LightningCLI and its options."""
    FeaturesCLI(
        FeatureClassifier,
        InMemoryDataModule,
        subclass_mode_data=True,
        seed_everything_default=0,
        trainer_defaults=DEFAULTS,
        parser_class=Parser,
        parser_kwargs={"prog": "ncsn features"},
        args=args,
    )

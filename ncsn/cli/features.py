"""Trains a feature network, in which samples are compared; see :mod:`ncsn.evaluation.features`.

``python -m ncsn features fit --data DATA`` prints the accuracy on the test images, and where it
has written the network.
"""

from pathlib import Path

from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from ncsn.cli.parser import Parser
from ncsn.data import InMemoryDataModule
from ncsn.evaluation.features import save_features
from ncsn.modules.classifier import FeatureClassifier
from ncsn.runtime.precision import Trainer

LOGS = {"save_dir": "lightning_logs", "name": "features"}
LOGGER = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": LOGS}


class FeaturesCLI(LightningCLI):
    """Tests the network when it is trained, and writes its weights."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only fit: the others would be about a network that has not been trained."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def after_fit(self) -> None:
        """Measure the accuracy on the test images, and write ``features.safetensors``."""
        self.trainer.test(self.model, self.datamodule)
        path = Path(self.trainer.log_dir or "") / "features.safetensors"
        if self.trainer.is_global_zero:
            checksum = save_features(self.model.network, path)
            rank_zero_info(f"{path}: SHA-256 {checksum}; evaluate takes it as --features")


def run(args: list[str]) -> None:
    """Run ``ncsn features`` with a command of LightningCLI and its options."""
    FeaturesCLI(
        FeatureClassifier,
        InMemoryDataModule,
        subclass_mode_data=True,
        seed_everything_default=0,
        trainer_class=Trainer,
        trainer_defaults={"max_epochs": 20, "enable_checkpointing": False, "logger": LOGGER},
        parser_class=Parser,
        parser_kwargs={"prog": "ncsn features"},
        args=args,
    )

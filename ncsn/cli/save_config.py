"""The config that a run writes down."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from ncsn.runtime.resume import WANDB_ID

WRITTEN_AT_START = {"config.yaml", "hparams.yaml", WANDB_ID}


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run's directory, and sends the config to W&B.

    A run that is refused before its first batch leaves no directory.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        config = config.clone()
        for logger in loggers_of(config):  # so that --name changes their names too
            if logger.init_args.get("name") == config.name:
                logger.init_args.name = None
        super().__init__(parser, config, **kwargs)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write nothing where the run has no directory."""
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Send the config to W&B, and write down W&B's identifier of the run."""
        # Only the first rank comes here: trainer.log_dir would wait for the others.
        directory = getattr(trainer.logger, "log_dir", None)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.as_dict())
                if logger.version and directory:
                    (Path(directory) / WANDB_ID).write_text(logger.version)

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        """Remove the directory of a run that has not begun, if this process made it."""
        log_dir = getattr(trainer.logger, "log_dir", None)
        loops = trainer.fit_loop.epoch_loop, trainer.validate_loop, trainer.test_loop
        progress = [loop.batch_progress.total for loop in (*loops, trainer.predict_loop)]
        begun = any(each.ready for each in progress)
        if begun or self.overwrite or trainer.global_rank or log_dir is None:
            return
        with suppress(OSError):
            files = list(Path(log_dir).iterdir())
            if {file.name for file in files} <= (
                WRITTEN_AT_START if self.already_saved else set()
            ):
                for file in files:
                    file.unlink()
                Path(log_dir).rmdir()


def loggers_of(config: Namespace) -> list[Namespace]:
    """The loggers of a config."""
    loggers = config.trainer.logger
    loggers = loggers if isinstance(loggers, list) else [loggers]
    return [each for each in loggers if isinstance(each, Namespace)]

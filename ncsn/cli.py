"""The command line: LightningCLI, with the links between data and model and one-line errors.

``python -m ncsn fit|validate|test|predict --config configs/NAME.yaml``
"""

import ctypes
import math
import platform
import sys
import traceback
import warnings
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader

from ncsn.callbacks import ImageEvaluation, PointEvaluation, SampleWriter
from ncsn.checkpoints import DurableCheckpointIO, load_checkpoint
from ncsn.compare import compare
from ncsn.data import InMemoryDataModule
from ncsn.errors import UserError
from ncsn.modules import ScoreModule

__all__ = ["Trainer", "main"]


# Warnings of Lightning that are true of every run here, and nothing that a user could mend.
EXPECTED_WARNINGS = (
    ".*LeafSpec.*is deprecated",  # Lightning 2.6 with torch 2.15
    ".*callbacks used to create the checkpoint need to be provided",  # fit's, not predict's
    "The dirpath has changed from",  # every run has its own directory
    "Couldn't infer the batch indices",  # predict's batches are the numbers of the samples
    ".*does not have many workers",  # batches come out of memory
)


DESCRIPTION = """Train a model (fit), evaluate it (validate, test), draw samples (predict).
Put runs side by side with: ncsn compare RUN RUN ..."""


class OneLineErrors:
    """For parsers."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line, and exit with status 2."""
        fail(message, status=2)


class Parser(OneLineErrors, LightningArgumentParser):
    """The parser of LightningCLI."""


class CompareParser(OneLineErrors, ArgumentParser):
    """The parser of ``compare``."""


class Trainer(pl.Trainer):
    """Lightning's Trainer, whose ``predict`` draws samples and whose ``test`` judges them."""

    def test(  # type: ignore[override]
        self,
        model: ScoreModule,
        datamodule: InMemoryDataModule | None = None,
        num_samples: PositiveInt | None = None,
        num_likelihood_examples: NonNegativeInt | None = None,
        inception: bool = False,
        ckpt_path: str | None = None,
        weights_only: bool | None = True,
    ) -> None:
        """Evaluate a model: its loss, samples, likelihood, and its loss at each noise level.

        Prints a table, and writes evaluation.json, scores.csv, levels.csv and pictures to the
        run's directory.

        Args:
            model: The trained model.
            datamodule: The data of the training, with its test examples.
            num_samples: Number of samples that are judged, by default 5,000 points or 1,000
                images; of images, no more than there are test images.
            num_likelihood_examples: Number of test examples whose log likelihood an NCSN computes,
                by default 1,000 points or 128 images; 0 for none.
            inception: Whether to compute Inception's FID as well; its weights must be at hand.
            ckpt_path: The checkpoint with the weights.
            weights_only: Accepted because the config of a fit has it; always True.

        Raises:
            UserError: If samples are not finite, or fewer than processes.
        """
        kind = ImageEvaluation if len(model.data_shape) == 3 else PointEvaluation
        numbers = {
            "num_samples": num_samples,
            "num_likelihood_examples": num_likelihood_examples,
        }
        given = {name: number for name, number in numbers.items() if number is not None}
        self.callbacks.append(kind(**given, inception=inception))  # type: ignore[attr-defined]
        super().test(
            model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False, weights_only=True
        )

    def predict(  # type: ignore[override]
        self,
        model: ScoreModule,
        datamodule: InMemoryDataModule | None = None,
        num_samples: PositiveInt = 100,
        batch_size: PositiveInt = 64,
        label: int | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = True,
    ) -> None:
        """Draw samples and write them to samples.npz and samples.png in the run's directory.

        Sample number i depends on the weights, the sampler, --seed_everything and i alone: not on
        the batch size or on the number of processes.

        Args:
            model: The trained model.
            datamodule: The data of the training; not used.
            num_samples: Number of samples to draw.
            batch_size: Samples that are drawn at a time, on each device; fewer if there are not
                enough for all devices.
            label: Class of all samples, −1 for any; by default, a class-conditional model takes
                its classes in turn.
            ckpt_path: The checkpoint with the weights.
            weights_only: Accepted because the config of a fit has it; always True.

        Raises:
            UserError: If there are fewer samples than processes, or the model has no such class.
        """
        num_classes = model.network.num_classes
        if label is not None and not -1 <= label < num_classes:
            raise UserError(f"--label {label}: the model has {num_classes} classes")
        if num_samples < self.world_size:
            raise UserError(
                f"--num_samples {num_samples} cannot be shared among {self.world_size} processes"
            )
        # Lightning shares the batches out among ranks.
        batch_size = min(batch_size, math.ceil(num_samples / self.world_size))
        numbers = torch.arange(num_samples)
        labels = (
            numbers % max(num_classes, 1) if label is None else torch.full_like(numbers, label)
        )
        batches: Any = list(zip(numbers.split(batch_size), labels.split(batch_size), strict=True))
        super().predict(
            model,
            DataLoader(batches, batch_size=None),
            return_predictions=False,
            ckpt_path=ckpt_path,
            weights_only=True,
        )


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run's directory, and the config to W&B."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Send the config to W&B; the file has been written."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.as_dict())


class CLI(LightningCLI):
    """LightningCLI for the modules and the data of this project.

    Args:
        args: The arguments, by default those of the process.
        run: Whether to run a subcommand; without, there is none in ``args``, and ``trainer``,
            ``model`` and ``datamodule`` are those of the config.
    """

    def __init__(self, args: ArgsType = None, run: bool = True) -> None:
        super().__init__(
            ScoreModule,
            InMemoryDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=Trainer,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            parser_class=Parser,
            parser_kwargs={"prog": "ncsn", "allow_abbrev": False, "description": DESCRIPTION},
            auto_configure_optimizers=False,  # the model has its own arguments for them
            args=args,
            run=run,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let the model know the data."""
        for name in ("data_shape", "data_mean", "data_std", "data_diameter"):
            parser.link_arguments(
                f"data.{name}", f"model.init_args.{name}", apply_on="instantiate"
            )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The subcommands, each with the arguments that do not come from the command line."""
        skipped = LightningCLI.subcommands()
        return skipped | {name: {"model", "datamodule"} for name in ("test", "predict")}

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer of the config, with checkpoints that survive."""
        trainer = super().instantiate_trainer(**kwargs)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not the user's choice
            trainer.strategy.checkpoint_io = DurableCheckpointIO()
        return trainer

    def before_predict(self) -> None:
        """Have the samples written, and leave W&B out: there are no metrics."""
        loggers = self.trainer.loggers
        loggers = [logger for logger in loggers if not isinstance(logger, WandbLogger)]
        # A logger gives the run its directory.
        self.trainer.loggers = loggers or [CSVLogger("lightning_logs", name="predict")]
        self.trainer.callbacks.append(SampleWriter())  # type: ignore[attr-defined]

    def instantiate_classes(self) -> None:
        """Make the objects of the config; what they refuse is the user's mistake."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause: BaseException = error
            while _raised_in(cause) in ("jsonargparse", "lightning"):  # look below their message
                deeper = cause.__cause__ or cause.__context__
                if deeper is None:
                    break
                cause = deeper
            if _raised_in(cause) == "ncsn":
                raise UserError(str(cause)) from error
            raise  # a fault in somebody's code, who wants to see where

    def _parse_ckpt_path(self) -> None:
        subcommand = self.config.get("subcommand")
        if subcommand is None:
            return
        ckpt_path = self.config[subcommand]["ckpt_path"]
        if ckpt_path is None and subcommand != "fit":
            raise UserError(f"{subcommand} needs trained weights: give --ckpt_path CHECKPOINT")
        if ckpt_path is not None:
            load_checkpoint(ckpt_path)  # refuses what is not one, before the work begins
        if subcommand == "fit":
            return  # keeps the user's values
        # All else takes the model from the checkpoint, and from the user what to do with it.
        init_args = self.config[subcommand]["model"]["init_args"]
        names = ("sampler", "guidance_scale")
        of_user = {name: init_args[name] for name in names if name in init_args}
        super()._parse_ckpt_path()
        init_args = self.config[subcommand]["model"]["init_args"]
        for name, value in of_user.items():
            if name in init_args:  # the checkpoint may be of another class
                init_args[name] = value


def _raised_in(error: BaseException) -> str:
    """The top-level package of the code that raised an error."""
    name = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_globals["__name__"]
    return name.split(".")[0]


def fail(message: str, status: int = 1) -> NoReturn:
    """Print one line and exit."""
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    sys.exit(status)


def compare_runs(args: list[str]) -> None:
    """The subcommand ``compare``, which needs neither model nor data."""
    parser = CompareParser(prog="ncsn compare", description="Put runs side by side.")
    parser.add_argument("runs", nargs="+", type=Path, help="Directories of fits or of tests.")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("lightning_logs/comparison"),
        help="Directory for comparison.csv and comparison.png.",
    )
    options = parser.parse_args(args)
    compare(options.runs, options.output)


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors instead of returning it to the system.

    Otherwise every training step on a CPU asks for its activations anew and pays for each of
    their pages: ``tests/benchmarks/training_speed.py`` measures what this saves. Other systems'
    allocators stay as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        libc = ctypes.CDLL(None)
        # Older versions take no more than 32 MiB. The first without the second would be harmful.
        if libc.mallopt(m_mmap_threshold, 2**30) or libc.mallopt(m_mmap_threshold, 2**25):
            libc.mallopt(m_trim_threshold, 2**31 - 1)


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: The arguments, by default those of the process.
    """
    keep_freed_memory()
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    given = sys.argv[1:] if args is None else args
    try:
        if isinstance(given, list) and given[:1] == ["compare"]:
            return compare_runs(given[1:])
        CLI(args)
    except (UserError, MisconfigurationException) as error:
        fail(str(error))

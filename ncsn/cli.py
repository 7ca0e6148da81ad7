"""The command line: LightningCLI, with the links between data and model and one-line errors.

``python -m ncsn fit|validate|test|predict --config configs/NAME.yaml``
"""

import csv
import ctypes
import logging
import math
import platform
import signal
import sys
import tempfile
import traceback
import warnings
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, NoReturn, cast

import lightning.pytorch as pl
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.memory import is_oom_error
from torch.utils.data import DataLoader

from ncsn.callbacks import GracefulStop, ImageEvaluation, PointEvaluation, SampleWriter
from ncsn.callbacks.graceful_stop import LOST, SIGNALS
from ncsn.checkpoints import (
    DurableCheckpointIO,
    checksum,
    find_last_checkpoint,
    load_checkpoint,
)
from ncsn.compare import compare
from ncsn.data import InMemoryDataModule
from ncsn.errors import Stopped, UserError, of_somebodys_own_code
from ncsn.modules import ScoreModule
from ncsn.noise import global_seed

__all__ = ["Trainer", "main"]


# Warnings of Lightning that are true of every run here, and nothing that a user could mend.
EXPECTED_WARNINGS = (
    ".*LeafSpec.*is deprecated",  # Lightning 2.6 with torch 2.15
    ".*callbacks used to create the checkpoint need to be provided",  # fit's, not predict's
    "The dirpath has changed from",  # every run has its own directory
    "Couldn't infer the batch indices",  # predict's batches are the numbers of the samples
    ".*does not have many workers",  # batches come out of memory
    ".*your dataloader is not resumable",  # its sampler is
    "Experiment logs directory .* exists",  # when a run goes on, and its metrics are kept
    "Checkpoint directory .* exists",  # the same
    "It is recommended to use .*sync_dist=True",  # the metrics are, by torchmetrics
)

# Messages of Lightning of the same kind.
EXPECTED_MESSAGES = ("💡 Tip", "TPU available", "Loading `train_dataloader`")

WANDB_ID = "wandb_id.txt"
"""In the directory of a run: the name that W&B has given it."""

OUT_OF_MEMORY = (
    "lower data.batch_size (trainer.accumulate_grad_batches makes up for it) or the size of "
    "model.network, or set trainer.precision to bf16-mixed"
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
        first_sample: NonNegativeInt = 0,
        label: int | None = None,
        resume: Path | None = None,
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
            first_sample: Number of the first sample, so that several runs can share the work.
            label: Class of all samples, −1 for any; by default, a class-conditional model takes
                its classes in turn.
            resume: The directory of an interrupted run with the same settings: what it has drawn
                is kept, and the rest goes there too.
            ckpt_path: The checkpoint with the weights.
            weights_only: Accepted because the config of a fit has it; always True.

        Raises:
            UserError: If there are fewer samples than processes, the model has no such class, or
                ``resume`` is of other samples.
        """
        num_classes = model.network.num_classes
        if label is not None and not -1 <= label < num_classes:
            classes = f"has {num_classes} classes" if num_classes else "is not class-conditional"
            raise UserError(f"--label {label}: the model {classes}")
        if num_samples < self.world_size:
            raise UserError(
                f"--num_samples {num_samples} cannot be shared among {self.world_size} processes"
            )
        about = {
            "checkpoint": checksum(ckpt_path) if ckpt_path else "none",
            "seed": global_seed(),
            "sampler": str(model.sampler),
            "guidance_scale": model.guidance_scale,
            "label": label,
            "first_sample": first_sample,
            "num_samples": num_samples,
        }
        writer = SampleWriter(resume or Path(self.log_dir or "."), about)
        self.callbacks.append(writer)  # type: ignore[attr-defined]
        all_numbers = torch.arange(first_sample, first_sample + num_samples)
        numbers = writer.missing(all_numbers)
        if len(numbers) < self.world_size:  # Lightning wants work for all: draws the last again
            numbers = all_numbers[-self.world_size :]
        # Lightning shares the batches out among ranks.
        batch_size = min(batch_size, math.ceil(len(numbers) / self.world_size))
        gaps = (numbers.diff() != 1).nonzero().flatten() + 1
        batches = [part for run in numbers.tensor_split(gaps) for part in run.split(batch_size)]
        labels = [
            part % max(num_classes, 1) if label is None else torch.full_like(part, label)
            for part in batches
        ]
        super().predict(
            model,
            DataLoader(cast(Any, list(zip(batches, labels, strict=True))), batch_size=None),
            return_predictions=False,
            ckpt_path=ckpt_path,
            weights_only=True,
        )


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run's directory, and the config to W&B."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Send the config to W&B, and note W&B's name of the run; the file has been written."""
        # Only the first rank comes here: trainer.log_dir would wait for the others.
        directory = getattr(trainer.logger, "log_dir", None)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.as_dict())
                if logger.version and directory:
                    (Path(directory) / WANDB_ID).write_text(logger.version)


class CLI(LightningCLI):
    """LightningCLI for the modules and the data of this project.

    Args:
        args: The arguments, by default those of the process.
        run: Whether to run a subcommand; without, there is none in ``args``, and ``trainer``,
            ``model`` and ``datamodule`` are those of the config.
    """

    def __init__(self, args: ArgsType = None, run: bool = True) -> None:
        self.goes_on_from: Path | None = None  # checkpoint of a run whose directory is kept
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
        trainer.callbacks.append(GracefulStop())  # type: ignore[attr-defined]
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                # Every run has its own directory: there, last.ckpt is to stay the last.
                callback._enable_version_counter = False
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not the user's choice
            trainer.strategy.checkpoint_io = DurableCheckpointIO()
        return trainer

    def before_fit(self) -> None:
        """Let the loggers go on where those of the checkpoint's run stopped."""
        if self.goes_on_from is None:
            return
        self.config_init["fit"]["ckpt_path"] = str(self.goes_on_from)
        run = self.goes_on_from.parent.parent
        self._overwrite_config()
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger._version = run.name
                go_on_with_metrics(logger, self.goes_on_from)
            if isinstance(logger, WandbLogger) and (run / WANDB_ID).is_file():
                logger._id = logger._wandb_init["id"] = (run / WANDB_ID).read_text()

    def _overwrite_config(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SaveConfig):
                callback.overwrite = True

    def before_predict(self) -> None:
        """Have the samples written, and leave W&B out: there are no metrics."""
        loggers = self.trainer.loggers
        loggers = [logger for logger in loggers if not isinstance(logger, WandbLogger)]
        # A logger gives the run its directory.
        self.trainer.loggers = loggers or [CSVLogger("lightning_logs", name="predict")]
        resume = self.config_init["predict"]["resume"]
        if resume is not None:
            if not SampleWriter.is_begun(resume):
                raise UserError(
                    f"--resume {resume} is not the directory of an interrupted predict"
                )
            self.trainer.loggers = [CSVLogger(resume.parent, name="", version=resume.name)]
            self._overwrite_config()

    def instantiate_classes(self) -> None:
        """Make the objects of the config; what they refuse is the user's mistake."""
        try:
            super().instantiate_classes()
        except (UserError, MisconfigurationException):
            raise
        except Exception as error:
            cause: BaseException = error
            while _raised_in(cause).split(".")[0] in ("jsonargparse", "lightning"):
                deeper = cause.__cause__ or cause.__context__  # below their message
                if deeper is None:
                    break
                cause = deeper
            if of_somebodys_own_code(cause):
                raise cause from None
            kind = "" if isinstance(cause, ValueError) else f"{type(cause).__name__}: "
            raise UserError(f"the config cannot be used: {kind}{cause}") from error

    def _parse_ckpt_path(self) -> None:
        subcommand = self.config.get("subcommand")
        if subcommand is None:
            return
        ckpt_path = self.config[subcommand]["ckpt_path"]
        if ckpt_path is None and subcommand != "fit":
            raise UserError(f"{subcommand} needs trained weights: give --ckpt_path CHECKPOINT")
        if ckpt_path == "last":
            self._find_last_checkpoint(subcommand)
        elif ckpt_path is not None:
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

    def _find_last_checkpoint(self, subcommand: str) -> None:
        """Replace ``last`` by the path of the last checkpoint of this config's runs."""
        config = self.config[subcommand]
        loggers = config["trainer"]["logger"]
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if getattr(logger, "class_path", "").endswith(".CSVLogger"):
                runs = Path(logger.init_args.save_dir) / logger.init_args.name
                break
        else:
            raise UserError(
                "--ckpt_path last looks where trainer.logger's CSVLogger writes, and there is "
                "none: give the path of a checkpoint"
            )
        path = find_last_checkpoint(runs)
        if path is None and subcommand != "fit":
            raise UserError(f"--ckpt_path last: no run in {runs} has saved a checkpoint")
        if path is None:
            rank_zero_info(f"--ckpt_path last: no run in {runs} yet, so this is the first")
        if subcommand == "fit":  # before_fit gives it to the trainer, but not to the stored config
            self.goes_on_from, path = path, None
        config["ckpt_path"] = path and str(path)


@rank_zero_only
def go_on_with_metrics(logger: CSVLogger, checkpoint: Path) -> None:
    """Keep the metrics of the steps before a checkpoint, which a new writer would delete."""
    path = Path(logger.log_dir) / "metrics.csv"
    global_step = load_checkpoint(checkpoint)["global_step"]
    rows: list[Any] = []
    if path.is_file():
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) < global_step]
    logger.experiment.metrics.extend(rows)
    logger.save()


def _raised_in(error: BaseException) -> str:
    """The module that has raised an error."""
    name = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_globals["__name__"]
    return name


def fail(message: str, status: int = 1) -> NoReturn:
    """Print one line and exit."""
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    sys.exit(status)


def unexpected(error: Exception) -> NoReturn:
    """Print one line for an error that nobody has thought of, and keep where it came from."""
    if of_somebodys_own_code(error):
        raise error
    with tempfile.NamedTemporaryFile("w", prefix="ncsn-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    fail(f"{type(error).__name__}: {error}; where this comes from is in {file.name}")


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


def format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Warnings of this project in one line, without the place in the code."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def main(args: ArgsType = None) -> None:
    """Run the command line.

    Args:
        args: The arguments, by default those of the process.
    """
    keep_freed_memory()
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    warnings.formatwarning = format_warning
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not record.getMessage().startswith(EXPECTED_MESSAGES)
    )
    given = sys.argv[1:] if args is None else args
    try:
        if isinstance(given, list) and given[:1] == ["compare"]:
            return compare_runs(given[1:])
        CLI(args)
    except (UserError, MisconfigurationException) as error:
        fail(str(error))
    except Stopped as stop:
        for signum in SIGNALS:  # the first says how this ends
            signal.signal(signum, signal.SIG_IGN)
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            sys.exit(128 + stop.signum)
        fail(str(stop), status=128 + stop.signum)
    except RuntimeError as error:
        if is_oom_error(error):
            fail(f"out of memory: {OUT_OF_MEMORY}")
        for note in getattr(error, "__notes__", ()):
            if note.startswith(LOST):
                fail(note)
        unexpected(error)
    except Exception as error:
        if isinstance(error, OSError) and error.strerror and not of_somebodys_own_code(error):
            fail(f"{error.filename or 'a file or a network connection'}: {error.strerror}")
        unexpected(error)
    except KeyboardInterrupt:
        fail("interrupted", status=128 + signal.SIGINT)

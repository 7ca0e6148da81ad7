"""LightningCLI for this project: links between data and model, defaults, checkpoints."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from pydoc import locate
from typing import Any, NoReturn

import lightning.pytorch as pl
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

import ncsn.optimizers  # noqa: F401  # a checkpoint may name only what is imported already
from ncsn.callbacks import EMA, Divergence, OneThread, Preflight, ProgressBar
from ncsn.cli.checkpoints import find_checkpoint, take_model_from_checkpoint
from ncsn.cli.errors import fail, root_cause
from ncsn.cli.messages import IN_A_LIST, UNKNOWN_OPTION, did_you_mean, explain, repeated_key
from ncsn.data import InMemoryDataModule
from ncsn.modules import ScoreModule
from ncsn.modules.links import DATA_LINKS, NETWORK_LINKS, store_links
from ncsn.modules.pretrained import PRETRAINED, SHIPPED
from ncsn.modules.stored_config import config_from, model_to_store
from ncsn.runtime import (
    DurableCheckpointIO,
    GracefulStop,
    Resume,
    WandbLogger,
    halve_when_out_of_memory,
    load_checkpoint,
)
from ncsn.runtime.checkpoints import LastCheckpoint
from ncsn.runtime.clipping import clippable
from ncsn.runtime.precision import Trainer, fast_precision
from ncsn.runtime.runs import RunDirectory, RunLogger, configured_loggers
from ncsn.runtime.wandb import WandbOptions, read_id

Command = Callable[..., None]
"""Called with the CLI and its own options, which are those of its signature."""

CSV, WANDB = "ncsn.runtime.RunLogger", "ncsn.runtime.WandbLogger"

DEFAULTS = {
    "trainer.logger": [
        {"class_path": CSV, "init_args": {"save_dir": "lightning_logs", "name": None}},
        {"class_path": WANDB},
    ],
    "progress_bar.refresh_rate": 10,
    "best.filename": "best",
    "best.monitor": "val/loss_per_dim",
    "best.enable_version_counter": False,  # every run has its own directory
    "last.filename": "last",
    "last.save_on_train_epoch_end": True,  # also after epochs without a validation
    "last.enable_version_counter": False,
}


SHARDING = ("fsdp", "deepspeed", "model_parallel", "modelparallel")
"""What the names of strategies that shard the weights contain."""


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, and exits with status 2."""

    file = ""

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Read a config, whose name comes before what is wrong with it."""
        self.file = f"{path}: "
        try:
            config = super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError as error:
            raise ValueError(f"--config is the path of a text file: {path}: {error}") from error
        self.file = ""
        return config

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parse the text of a config, in which each option may stand once."""
        self.refuse_repeated(content)
        return super().parse_string(content, *args, **kwargs)

    def refuse_repeated(self, content: str) -> None:
        """Exit if an option stands twice in a config: YAML would keep the last."""
        if twice := repeated_key(content):
            self.error(f"{twice} is given twice: leave one of the two")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """See :class:`Parser`; the parser of a class that is an option leaves that to its user."""
        if unknown := UNKNOWN_OPTION.search(message):
            name = ".".join(filter(None, unknown.groups()))
            message += did_you_mean(name, self.get_defaults(skip_validation=True).keys(), "--")
        if not self.exit_on_error:
            super().error(message, ex)
        fail(self.file + explain(message), status=2)


class CLI(LightningCLI):
    """The trainer, the model and the data of a command line.

    Args:
        args: The options.
        command: The command, whose own options are added; by default, none.
    """

    def __init__(self, args: list[str], command: Command | None = None) -> None:
        self.command, name = command, command.__name__ if command else ""
        self.checkpoint: Path | None = None  # of --ckpt_path
        self.model_is_stored = False  # taken from the checkpoint
        self.run: Path | None = None  # the directory of the run that is resumed in place
        super().__init__(
            ScoreModule,
            InMemoryDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=RunDirectory,
            trainer_class=Trainer,
            trainer_defaults={"callbacks": [Divergence(), Preflight(), OneThread(), Resume()]},
            parser_class=Parser,
            parser_kwargs={"prog": f"ncsn {name}".strip(), "allow_abbrev": False},
            auto_configure_optimizers=False,  # the model has its own arguments for them
            args=self._with_stored_config(_with_hyphens(args)),
            run=False,
            load_from_checkpoint_support=False,  # see _model_config
        )
        self.options = {name: self.config_init[name] for name in self.option_names}

    # ---- options -----------------------------------------------------------------------------

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the model to the data, and add the command's options and what all runs share."""
        for name in DATA_LINKS:
            parser.link_arguments(
                f"data.{name}", f"model.init_args.{name}", apply_on="instantiate"
            )
        for name in NETWORK_LINKS:
            parser.link_arguments(
                "data.data_shape",
                f"model.init_args.network.init_args.{name}",
                compute_fn=lambda shape: shape[0],
                apply_on="instantiate",
            )
        parser.add_argument(
            "--name", type=str | None, help="Name of the run (default: the config's)"
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            help="A checkpoint, a model's folder, or 'last' of this config's runs.",
        )
        parser.add_argument(
            "--pretrained", choices=PRETRAINED, help="A model of the package, as --ckpt_path"
        )
        text = "A file that ncsn features fit wrote: images are compared in its features"
        parser.add_argument("--features", type=Path | None, help=text)
        parser.add_class_arguments(WandbOptions, "wandb", instantiate=False)
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(ProgressBar, "progress_bar")
        parser.add_lightning_class_args(ModelCheckpoint, "best")
        parser.add_lightning_class_args(LastCheckpoint, "last")
        parser.set_defaults(DEFAULTS)
        self.option_names: list[str] = []
        if self.command is not None:
            self.option_names = parser.add_function_arguments(
                self.command, as_group=False, skip={"cli"}
            )
            parser.description = (self.command.__doc__ or "").splitlines()[0]

    def _with_stored_config(self, args: list[str]) -> list[str]:
        """Without ``--config``, begin with that of the checkpoint."""
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("-c", "--config", nargs="?")
        for option in ("--ckpt_path", "--pretrained"):
            finder.add_argument(option, nargs="?")
        given = finder.parse_known_args(args)[0]
        self.typed = re.findall(r"^--model\.(\w+)", "\n".join(args), re.MULTILINE)
        if given.pretrained and given.ckpt_path:
            raise ValueError("--pretrained and --ckpt_path both name a model: give one")
        if given.pretrained in PRETRAINED:
            args = [*args, "--ckpt_path", str(SHIPPED / given.pretrained)]
            given.ckpt_path = args[-1]
        if self.command is None or given.config or given.ckpt_path in (None, "last"):
            return args
        checkpoint = load_checkpoint(given.ckpt_path)
        config = config_from(checkpoint, self.command.__name__, args)
        name = {"name": Path(given.ckpt_path).stem}
        return ["--config", yaml.safe_dump(name | config), *args] if config else args

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, name the run, and take the model from the checkpoint where that is right."""
        self.config = config = parser.parse_args(args)
        if config.name is None:
            config.name = Path(str(config.config[0])).stem if config.config else "run"
        seed = config.seed_everything
        if type(seed) is int and not 0 <= seed < 2**32:
            raise ValueError(f"--seed_everything must be from 0 to 2**32 - 1, got {seed}")
        if config.trainer.precision == "auto":  # resolved here, so that it is stored
            config.trainer.precision, why = fast_precision(config.trainer.accelerator)
            rank_zero_info(f"auto: trainer.precision = {config.trainer.precision} ({why})")
        for logger in self.loggers():
            if logger.class_path == "lightning.pytorch.loggers.CSVLogger":
                logger.class_path = CSV  # which locks the run, and survives a kill
            if logger.class_path == WANDB:
                given = {name: value for name, value in config.wandb.items() if value}
                logger.init_args.update(Namespace(given))
            elif "name" in logger.init_args and logger.init_args.name is None:
                logger.init_args.name = config.name
        self._log_to_files_first()
        if self.command is not None:
            find_checkpoint(self)
            if self.command.__name__ != "fit" and self.checkpoint is not None:
                take_model_from_checkpoint(self, parser)

    def _log_to_files_first(self) -> None:
        """Let a logger that gives each run a directory be the first: Lightning asks that one."""
        loggers = self.loggers()
        if not loggers or _has_directory(loggers[0]):
            return
        args = Namespace(save_dir="lightning_logs", name=self.config.name)
        csv = Namespace(class_path=CSV, init_args=args)
        first = next(filter(_has_directory, loggers), csv)
        self.config.trainer.logger = [first, *(each for each in loggers if each is not first)]

    def stored_config(self) -> dict[str, Any]:
        """The config in the form of a file."""
        return yaml.safe_load(self.parser.dump(self.config))

    def loggers(self, class_path: str = "") -> list[Namespace]:
        """The loggers of the config, or those of a class."""
        return [each for each in configured_loggers(self.config) if class_path in each.class_path]

    # ---- objects -----------------------------------------------------------------------------

    def instantiate_classes(self) -> None:
        """Make the objects of the config; errors are shown without the layers above them."""
        try:
            super().instantiate_classes()
        except Exception as error:
            cause = root_cause(error)
            kind = "" if isinstance(cause, ValueError) else f"{type(cause).__name__}: "
            # If an object in a list cannot be made, the last cause says only that it is a list.
            of_list = IN_A_LIST.search(str(error)) if "valid subclass" in str(cause) else None
            reason = of_list[1] if of_list else f"{kind}{cause}"
            raise ValueError(f"the config cannot be used: {reason}") from cause
        scale = self.model.guidance_scale
        if scale != 1 and not self.model.network.num_classes:
            raise ValueError(
                f"--model.guidance_scale {scale} needs a class-conditional model: leave it out"
            )
        if self.config.features is not None:
            self.datamodule.feature_network = self.config.features
            _ = self.datamodule.features  # refuses what does not fit the data
        self.model.save_hyperparameters(self._model_config(), logger=False)
        self.model.score = halve_when_out_of_memory(self.model.score)
        if self.trainer.gradient_clip_val or self.trainer.precision == "16-mixed":
            optimizer = self.model.optimizer
            self.model.optimizer = lambda parameters: clippable(optimizer(parameters))

    def _model_config(self) -> dict[str, Any]:
        """The model's config with its links to the data."""
        config = self.stored_config()["model"]
        given = None if self.model_is_stored else self.config.model.init_args
        store_links(self.model, self.datamodule, config["init_args"], given)
        return model_to_store(config["class_path"], config["init_args"])

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer of the config, with durable checkpoints."""
        config = self.config.trainer
        if "spawn" in str(config.strategy):
            raise ValueError("spawned processes cannot carry the model: use trainer.strategy ddp")
        for name in SHARDING:
            if name in str(config.strategy).lower():
                raise ValueError(
                    f"trainer.strategy {name} shards the weights, but not their moving average: "
                    "use trainer.strategy ddp"
                )
        fitting = self.command is not None and self.command.__name__ == "fit"
        left_out: list[str] = []
        if config.enable_progress_bar is False or config.barebones:
            left_out += ["progress_bar"]
        if config.enable_checkpointing is False or config.barebones:
            left_out += ["best", "last"]
        if config.barebones:  # it refuses our defaults
            kwargs |= {"logger": None, "log_every_n_steps": None}
        elif config.logger is False and config.default_root_dir is None:
            homeless = [each for each in ("best", "last") if self.config[each].dirpath is None]
            left_out += homeless
            if len(homeless) == 2 and "Checkpoint" not in str(config.callbacks):
                kwargs["enable_checkpointing"] = False  # or Lightning adds its own
            if fitting:
                rank_zero_info("without a logger, a run saves no checkpoints and no pictures")
        every, epochs = config.check_val_every_n_epoch, config.max_epochs
        if fitting and every and epochs and 0 < epochs < every:
            kwargs["check_val_every_n_epoch"] = epochs
            rank_zero_info(f"validation after epoch {epochs}, the last, instead of after {every}")
        keys = [key for key in self.parser.callback_keys if key not in left_out]
        self.parser.callback_keys = keys
        trainer = super().instantiate_trainer(**kwargs)
        # Appended here: to Lightning it is a checkpoint callback, which a trainer may refuse.
        trainer.callbacks.append(GracefulStop())  # type: ignore[attr-defined]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not the user's choice
            trainer.strategy.checkpoint_io = DurableCheckpointIO()
        return trainer

    def continue_in(self, run: Path) -> None:
        """Have the loggers continue in the directory of a run, instead of a new one."""
        if self.config.trainer.fast_dev_run or self.config.trainer.barebones:
            return  # Lightning has taken them away
        loggers: list[Logger] = []
        for logger, config in zip(self.trainer.loggers, self.loggers(), strict=True):
            args = config.init_args.as_dict()
            if isinstance(logger, RunLogger):
                logger = RunLogger(**{**args, "version": run.name})
            elif isinstance(logger, WandbLogger):
                logger = type(logger)(**{**args, "id": read_id(run) or args.get("id")})
            loggers.append(logger)
        self.log_to(*loggers, new=False)

    def log_to(self, *loggers: Logger, new: bool) -> None:
        """Replace the loggers; ``new`` says whether the first makes the directory of a new run."""
        self.trainer.loggers = list(loggers)
        for directory in self.run_directories:
            directory.save_to_log_dir = new

    @property
    def run_directories(self) -> list[RunDirectory]:
        """The callback that makes the run's directory; none in a ``fast_dev_run``."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        return [each for each in callbacks if isinstance(each, RunDirectory)]


def _has_directory(logger: Namespace) -> bool:
    """Whether a logger makes a directory for each run, where Lightning then puts all files."""
    made: Any = locate(logger.class_path)
    return issubclass(made, CSVLogger | TensorBoardLogger)


def _with_hyphens(args: list[str]) -> list[str]:
    """Options with the hyphens that ``${args_no_hyphens}`` of a W&B sweep leaves out."""
    before = ["", *args]
    return [
        f"--{arg}" if re.match(r"[a-z][\w.]*=", arg) and not re.match("--[^=]+$", last) else arg
        for last, arg in zip(before, args, strict=False)
    ]

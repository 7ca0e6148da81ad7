"""LightningCLI for this project: links between data and model, defaults, checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

import lightning.pytorch as pl
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from ncsn.callbacks import EMA, Divergence
from ncsn.cli.errors import fail, from_user_code, naming, root_cause
from ncsn.cli.preflight import Preflight, auto_values
from ncsn.data import InMemoryDataModule
from ncsn.modules import ScoreModule
from ncsn.runtime import (
    DurableCheckpointIO,
    GracefulStop,
    Resume,
    find_last_checkpoint,
    halve_when_out_of_memory,
    load_checkpoint,
)
from ncsn.runtime.clipping import clippable
from ncsn.runtime.stored_config import accepts, model_from, model_to_store
from ncsn.runtime.wandb import read_id, write_id

Command = Callable[..., None]
"""Called with the CLI and its own options, which are those of its signature."""

CSV, WANDB = "lightning.pytorch.loggers.CSVLogger", "ncsn.runtime.WandbLogger"

DATA_LINKS = ("data_shape", "data_mean", "data_std", "data_diameter")
"""Arguments of models that the data knows."""

NETWORK_LINKS = ("dim", "channels")
"""Arguments of networks that are the first number of the data's shape, where they exist."""

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


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, and exits with status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """See :class:`Parser`."""
        fail(message, status=2)


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run's directory, and sends the config to W&B."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        config = config.clone()
        for logger in _loggers(config):  # so that --name changes their names too
            if logger.init_args.get("name") == config.name:
                logger.init_args.name = None
        super().__init__(parser, config, **kwargs)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write nothing where the run has no directory."""
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Send the config to W&B and ``auto``'s values to all; keep W&B's name of the run."""
        # Only the first rank comes here: trainer.log_dir would wait for the others.
        directory = getattr(trainer.logger, "log_dir", None)
        model = model_from({"hyper_parameters": pl_module.hparams}) or {}  # with what is linked
        linked = {"class_path": model["class_path"], "init_args": model["dict_kwargs"]}
        for logger in trainer.loggers:
            if values := auto_values(cast(ScoreModule, pl_module)):
                logger.log_hyperparams(values)
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.as_dict() | {"model": linked})
                if logger.version and directory:
                    write_id(Path(directory), logger.version)


class CLI(LightningCLI):
    """The trainer, the model and the data of a command line.

    Args:
        args: The options.
        command: The command, whose own options are added; by default, none.
    """

    def __init__(self, args: list[str], command: Command | None = None) -> None:
        self.command, name = command, command.__name__ if command else ""
        self.checkpoint: Path | None = None  # of --ckpt_path
        self.run: Path | None = None  # the directory of the run that is resumed in place
        super().__init__(
            ScoreModule,
            InMemoryDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            trainer_defaults={"callbacks": [Divergence(), Preflight(), Resume()]},
            parser_class=Parser,
            parser_kwargs={"prog": f"ncsn {name}".strip(), "allow_abbrev": False},
            auto_configure_optimizers=False,  # the model has its own arguments for them
            args=args,
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
            "--ckpt_path", type=str | None, help="A checkpoint, or 'last' of this config's runs."
        )
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(RichProgressBar, "progress_bar")
        parser.add_lightning_class_args(ModelCheckpoint, "best")
        parser.add_lightning_class_args(ModelCheckpoint, "last")
        parser.set_defaults(DEFAULTS)
        self.option_names: list[str] = []
        if self.command is not None:
            self.option_names = parser.add_function_arguments(
                self.command, as_group=False, skip={"cli"}
            )
            parser.description = (self.command.__doc__ or "").splitlines()[0]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, name the run, and take the model from the checkpoint where that is right."""
        try:
            self.config = parser.parse_args(args)
        except UnicodeDecodeError as error:
            raise ValueError(f"--config is the path of a text file: {error}") from error
        config = self.config
        if config.name is None:
            config.name = Path(str(config.config[0])).stem if config.config else "run"
        for logger in self.loggers():
            if "name" in logger.init_args and logger.init_args.name is None:
                logger.init_args.name = config.name
        if self.command is not None:
            self._find_checkpoint()
            if self.command.__name__ != "fit" and self.checkpoint is not None:
                self._take_model_from_checkpoint(parser)

    def loggers(self, class_path: str = "") -> list[Namespace]:
        """The loggers of the config, or those of a class."""
        return [each for each in _loggers(self.config) if class_path in each.class_path]

    def _find_checkpoint(self) -> None:
        """Look for the checkpoint, and read it before the work begins."""
        assert self.command is not None
        command, config = self.command.__name__, self.config
        if config.ckpt_path is None:
            if command != "fit":
                raise ValueError(f"{command} needs trained weights: give --ckpt_path CHECKPOINT")
            return
        if config.ckpt_path != "last":
            self.checkpoint = Path(config.ckpt_path)
            load_checkpoint(self.checkpoint)  # refuses what is not one
            return
        csv = self.loggers(CSV)
        if not csv:
            raise ValueError(
                "--ckpt_path last looks where trainer.logger's CSVLogger writes, and there is "
                "none: give the path of a checkpoint"
            )
        runs = Path(csv[0].init_args.save_dir) / csv[0].init_args.name
        self.checkpoint = find_last_checkpoint(runs)
        if self.checkpoint is None and command != "fit":
            raise ValueError(f"--ckpt_path last: no run in {runs} has saved a checkpoint")
        if self.checkpoint is None:
            rank_zero_info(f"--ckpt_path last: no run in {runs} yet, so this is the first")
        if command != "fit":
            config.ckpt_path = str(self.checkpoint)
            return
        config.ckpt_path = None  # in the stored config
        if self.checkpoint is not None:
            self.run = self.checkpoint.parent.parent

    def _take_model_from_checkpoint(self, parser: LightningArgumentParser) -> None:
        """Take the model from the checkpoint, and from the user what to do with it."""
        assert self.checkpoint is not None
        model = model_from(load_checkpoint(self.checkpoint))
        if model is None:
            return
        names = ("sampler", "guidance_scale")
        init_args = self.config.model.init_args
        given = {name: init_args[name] for name in names if name in init_args}
        self.config = parser.parse_object({"model": model}, self.config)
        for name, value in given.items():
            if name in self.config.model.init_args:  # the checkpoint may be of another class
                self.config.model.init_args[name] = value

    # ---- objects -----------------------------------------------------------------------------

    def instantiate_classes(self) -> None:
        """Make the objects of the config; errors are shown without the layers above them."""
        try:
            super().instantiate_classes()
        except Exception as error:
            cause = root_cause(error)
            if from_user_code(cause):
                raise cause from None
            kind = "" if isinstance(cause, ValueError) else f"{type(cause).__name__}: "
            raise ValueError(f"the config cannot be used: {kind}{cause}") from error
        self.model.save_hyperparameters(self._model_config(), logger=False)
        self.model.draw = halve_when_out_of_memory(self.model.draw)
        optimizer = naming("model.optimizer", self.model.optimizer)
        clips = self.trainer.gradient_clip_val
        self.model.optimizer = (lambda p: clippable(optimizer(p))) if clips else optimizer
        if self.model.lr_scheduler is not None:
            self.model.lr_scheduler = naming("model.lr_scheduler", self._schedule())

    def _model_config(self) -> dict[str, Any]:
        """The model's config with its links to the data."""
        config = yaml.safe_load(self.parser.dump(self.config))["model"]
        init_args, shape = config["init_args"], self.datamodule.data_shape
        for name in DATA_LINKS:
            if accepts(type(self.model), name):
                value = getattr(self.datamodule, name)
                init_args[name] = list(value) if isinstance(value, tuple) else value
        for name in NETWORK_LINKS:
            if accepts(type(self.model.network), name):
                init_args["network"].setdefault("init_args", {})[name] = shape[0]
        return model_to_store(config["class_path"], init_args)

    def _schedule(self) -> Callable[..., Any]:
        """The schedule, as long as the training unless its length is given."""
        make, keywords = self.model.lr_scheduler, getattr(self.model.lr_scheduler, "keywords", {})
        computed = keywords.get("total_steps", 0) is None and keywords.get("epochs") is None

        def make_schedule(optimizer: Any) -> Any:
            steps = self.trainer.estimated_stepping_batches
            if computed and steps == float("inf"):
                raise ValueError("an endless training has no schedule: set trainer.max_epochs")
            return make(optimizer, **({"total_steps": int(steps)} if computed else {}))

        return make_schedule

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer of the config, with durable checkpoints."""
        config = self.config.trainer
        if "spawn" in str(config.strategy):
            raise ValueError("spawned processes cannot carry the model: use trainer.strategy ddp")
        left_out: list[str] = []
        if config.enable_progress_bar is False or config.barebones:
            left_out += ["progress_bar"]
        if config.enable_checkpointing is False or config.barebones:
            left_out += ["best", "last"]
        if config.barebones:  # it refuses our defaults
            kwargs |= {"logger": None, "log_every_n_steps": None}
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
        loggers: list[Logger] = []
        for logger, config in zip(self.trainer.loggers, self.loggers(), strict=True):
            args = config.init_args.as_dict()
            if isinstance(logger, CSVLogger):
                logger = CSVLogger(**{**args, "version": run.name})
            elif isinstance(logger, WandbLogger):
                logger = type(logger)(**{**args, "id": read_id(run) or args.get("id")})
            loggers.append(logger)
        self.log_to(*loggers, overwrite=True)

    def log_to(self, *loggers: Logger, overwrite: bool = False) -> None:
        """Replace the loggers; the first decides where config.yaml goes, if need be again."""
        self.trainer.loggers = list(loggers)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SaveConfig):
                callback.overwrite = overwrite


def _loggers(config: Namespace) -> list[Namespace]:
    """The loggers of a config."""
    loggers = config.trainer.logger
    loggers = loggers if isinstance(loggers, list) else [loggers]
    return [each for each in loggers if isinstance(each, Namespace)]

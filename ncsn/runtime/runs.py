"""The directory of a run: which one it is, who writes into it, its config and its metrics."""

import math
import os
import platform
import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml
from filelock import FileLock, Timeout
from jsonargparse import Namespace
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.trainer.states import TrainerFn

from ncsn.evaluation.files import read_metrics, replacing, write_csv
from ncsn.modules.stored_config import model_from
from ncsn.runtime.checkpoints import CHECKPOINTS
from ncsn.runtime.signals import Stopped
from ncsn.runtime.wandb import ID_FILE, WandbLogger, read_id, sweep_run_id


class Metrics(ExperimentWriter):
    """Writes ``metrics.csv``; keeps its rows before the step ``stop``, whenever it is killed."""

    def __init__(self, log_dir: str, stop: float) -> None:
        # Not Lightning's, which makes the directory and deletes the file.
        self.log_dir, self.hparams, self.metrics, self.metrics_keys = log_dir, {}, [], []
        self.path, self.stop = Path(log_dir, self.NAME_METRICS_FILE), stop
        self._fs = get_filesystem(log_dir)
        self.metrics_file_path = str(self.path)

    def save(self) -> None:
        """Append the new rows; an ``OSError`` names the file."""
        if not self.metrics:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.metrics_keys and self.path.is_file():  # a run is resumed
            rows = [row for row in read_metrics(self.path) if int(row["step"]) < self.stop]
            self.metrics_keys = sorted({"step"}.union(*rows))
            write_csv(self.path, self.metrics_keys, rows)
        try:
            super().save()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        write_csv(self.path, fieldnames, read_metrics(self.path))


class RunLogger(CSVLogger):
    """Lightning's, for runs that are killed, resumed, and started at the same time."""

    stop = math.inf  # a resumed run logs this step and those after it again
    _numbered = False  # whether the version was not given

    @property
    @rank_zero_experiment
    def experiment(self) -> Metrics:
        """The writer of metrics.csv."""
        if self._experiment is None:
            self._experiment = Metrics(self.log_dir, self.stop)
        return self._experiment  # type: ignore[return-value]

    def claim(self) -> bool:
        """Make the directory, or that of the next version if another process was faster.

        Returns whether it was made: not if the user has chosen one that exists.
        """
        while True:
            try:
                Path(self.log_dir).mkdir(parents=True)
            except FileExistsError:
                if not self._numbered:
                    return False
                self._version = self._experiment = None
            else:
                return True

    def _get_next_version(self) -> int:
        # Not Lightning's, which ignores dangling links.
        self._numbered = True
        root = Path(self.root_dir)
        names = os.listdir(root) if root.is_dir() else []
        found = (re.fullmatch(r"version_(\d+)", name) for name in names)
        return 1 + max((int(each[1]) for each in found if each), default=-1)


class RunDirectory(SaveConfigCallback):
    """Claims the run's directory, locks it, and writes ``config.yaml`` into it.

    A run that is resumed keeps the config that it was started with. If another one is given, it
    is written beside it when it begins to train, as ``config.from_step_N.yaml``.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        config = config.clone()
        for logger in configured_loggers(config):  # so that --name changes their names too
            if logger.init_args.get("name") == config.name:
                logger.init_args.name = None
        super().__init__(parser, config, **kwargs)
        self.lock: FileLock | None = None
        self.made = False  # whether this process has made the directory

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do nothing if the run has no directory.

        Raises:
            ValueError: If another process uses the directory, or it cannot be written.
        """
        failure, logger = "", trainer.logger
        if trainer.is_global_zero and isinstance(logger, RunLogger):
            try:
                if self.save_to_log_dir and not self.overwrite:
                    self.made = logger.claim()
                self.lock = lock(Path(logger.log_dir))
                if self.saves(trainer):
                    (Path(logger.log_dir) / CHECKPOINTS).mkdir(exist_ok=True)
            except ValueError as error:
                failure = str(error)
            except OSError as error:
                failure = f"{error.filename or logger.log_dir}: {error.strerror or error}"
        if failure := trainer.strategy.broadcast(failure):
            raise ValueError(failure)
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)

    @staticmethod
    def saves(trainer: Trainer) -> bool:
        """Whether checkpoints will be saved, from which ``--ckpt_path last`` can resume."""
        callbacks = trainer.checkpoint_callbacks
        fits = trainer.state.fn == TrainerFn.FITTING
        return fits and any(isinstance(each, ModelCheckpoint) for each in callbacks)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send the config to W&B and ``auto``'s values to all; keep W&B's name of the run."""
        # Only the first rank comes here: trainer.log_dir would wait for the others.
        directory = getattr(trainer.logger, "log_dir", None)
        model = cast(Any, model_from({"hyper_parameters": pl_module.hparams}))  # with its links
        linked = {"class_path": model["class_path"], "init_args": model["dict_kwargs"]}
        for logger in trainer.loggers:
            if values := cast(Any, pl_module).auto_values:
                logger.log_hyperparams(values)
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.as_dict() | {"model": linked})
                if self.save_to_log_dir:  # a new run
                    where = Path(directory or self.config.name).parts[-2:]
                    what = type(pl_module).__name__, type(pl_module.network).__name__
                    command = (stage,) if stage != "fit" else ()
                    logger.name_run(" ".join(["/".join(where), *what, *command]))
                if logger.version and directory:
                    with replacing(Path(directory, ID_FILE)) as file:
                        file.write(logger.version.encode())

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the config, so that the checkpoint alone is enough to use it."""
        checkpoint["config"], checkpoint["hardware"] = self.stored_config, hardware(trainer)

    @cached_property
    def stored_config(self) -> dict[str, Any]:
        """The config as plain data."""
        return yaml.safe_load(self.parser.dump(self.config))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config with which a run is resumed, if it is another one."""
        if self.save_to_log_dir or not trainer.is_global_zero or trainer.logger is None:
            return
        for logger in trainer.loggers:
            for each in trainer.checkpoint_callbacks:
                if isinstance(each, ModelCheckpoint):  # what the interrupted run has saved
                    logger.after_save_checkpoint(each)
        directory = Path(trainer.logger.log_dir or "")
        text = self.parser.dump(self.config, skip_none=False)
        if yaml.safe_load(text) != _read_config(directory / "config.yaml"):
            with replacing(directory / f"config.from_step_{trainer.global_step}.yaml") as file:
                file.write(text.encode())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unlock the directory."""
        if self.lock is not None:
            self.lock.release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Unlock the directory; remove it if a fault ended the run before its first batch."""
        self.teardown(trainer, pl_module, "")
        loops = trainer.validate_loop, trainer.test_loop, trainer.predict_loop
        progress = (loop.batch_progress for loop in (trainer.fit_loop.epoch_loop, *loops))
        begun = isinstance(exception, Stopped) or any(each.total.ready for each in progress)
        if self.made and not begun:
            shutil.rmtree(getattr(trainer.logger, "log_dir", ""), ignore_errors=True)


def hardware(trainer: Trainer) -> str:
    """How many devices of which type: noise and the order of the data depend on them."""
    return f"{trainer.world_size} x {trainer.strategy.root_device.type}"


def configured_loggers(config: Namespace) -> list[Namespace]:
    """The loggers of a config."""
    loggers = config.trainer.logger
    loggers = loggers if isinstance(loggers, list) else [loggers]
    return [each for each in loggers if isinstance(each, Namespace)]


def find_last_run(runs: Path) -> Path | None:
    """The fit in ``runs/version_*`` with the highest number, whether it has saved or not.

    Under an agent of a W&B sweep, whose runs have other settings each, that of the same run.
    """
    wanted = sweep_run_id()
    numbers = {
        int(found[1]): path.parent
        for path in runs.glob(f"*/{CHECKPOINTS}/")
        if (found := re.fullmatch(r"version_(\d+)", path.parent.name))
        and (wanted is None or wanted == read_id(path.parent))  # which warns if it is damaged
    }
    return numbers[max(numbers)] if numbers else None


def lock(directory: Path) -> FileLock:
    """Lock a directory until it is released, or this process ends in any way.

    Raises:
        ValueError: If another process has locked it.
    """
    held, owner = FileLock(directory / ".lock"), directory / ".owner"
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        who = owner.read_text() if owner.is_file() else "another process"
        raise ValueError(f"{directory} is in use by {who}: wait until it ends") from error
    owner.write_text(f"process {os.getpid()} on {platform.node()}")
    return held


def _read_config(path: Path) -> Any:
    """A config as plain data; None if there is none that can be read."""
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None

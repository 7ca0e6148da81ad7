"""A W&B logger that never asks, never blocks and never stops training."""

import atexit
import inspect
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal, cast

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.loggers.utilities import _scan_checkpoints
from lightning.pytorch.utilities import rank_zero_warn

from ncsn.runtime.signals import Stopped

TIMEOUT = 15  # seconds to start, and to upload the rest at the end; it stays on the disk
UPLOAD_TIMEOUT = 600  # the same, if checkpoints are among the rest
ID_FILE = "wandb_id.txt"  # holds W&B's identifier of a run, in its directory
LOSSES = [f"{each}/loss_per_dim" for each in ("train", "val", "test")] + [
    "train/loss_per_dim_epoch"
]
"""Metrics of which W&B's table of runs shows the smallest value instead of the last."""


@dataclass
class WandbOptions:
    """The run in W&B; a WandbLogger in ``trainer.logger`` takes all that W&B knows.

    Args:
        project: Its project (default: WANDB_PROJECT, or ncsn).
        name: Its name (default: its directory, module and network).
        tags: Its tags, such as [baseline,wide].
        group: The group of runs to which it belongs.
        log_model: Whether to upload the best and the last checkpoint as artifacts when a training
            ends; all, whenever one is saved.
    """

    project: str | None = None
    name: str | None = None
    tags: list[str] | None = None
    group: str | None = None
    log_model: bool | Literal["all"] = False


def offline_reason(timeout: float = 3.0) -> str | None:
    """Why W&B cannot be used, or None if it can; prompts nobody, waits ``timeout`` seconds."""
    import requests

    url = (os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").rstrip("/")
    key = os.environ.get("WANDB_API_KEY")
    try:
        auth = ("api", key) if key else requests.utils.get_netrc_auth(url)
        if not auth:
            return "there is no API key (`wandb login` stores one)"
        query = {"query": "query Viewer { viewer { id } }"}
        answer = requests.post(f"{url}/graphql", json=query, auth=auth, timeout=timeout)
        if answer.status_code in (401, 403) or (answer.ok and not answer.json()["data"]["viewer"]):
            return f"{url} refuses the API key"
        return None if answer.ok else f"{url} answers with status {answer.status_code}"
    except Exception as error:  # whatever a URL, a key or an answer may lead to
        return f"{url} cannot be reached ({type(error).__name__})"


def read_id(run: Path) -> str | None:
    """W&B's identifier of the run in a directory, if there is one; warns if it is damaged."""
    path = run / ID_FILE
    found = path.read_text(errors="replace") if path.is_file() else None
    if found is None or re.fullmatch(r"[\w.-]{1,128}", found):
        return found
    return rank_zero_warn(f"{path} is damaged: W&B gets a new run")


def sweep_run_id() -> str | None:
    """W&B's identifier of this run, if it is one of a sweep."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


class _Nothing(_DummyExperiment):
    """Swallows what is logged after a fault of W&B."""

    id = None


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that reports a fault of W&B, the first one, and ends the logging to it."""

    @wraps(method)
    def call(self: "WandbLogger", *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Stopped:
            raise
        except Exception as error:  # whatever W&B may raise: training is worth more
            if not isinstance(self._experiment, _Nothing):
                self._experiment = _Nothing()  # type: ignore[assignment]
                reason = f"W&B failed ({type(error).__name__}: {error}) and is no longer used"
                _warn(f"{reason}; training continues and the CSV log is complete.")

    return call


def _warn(message: str) -> None:
    rank_zero_warn(" ".join(message.split()))


class WandbLogger(LightningWandbLogger):
    """Lightning's W&B logger, made safe to leave on.

    Without an API key or a network it runs offline and says once how to upload the run later.
    ``WANDB_MODE`` has its usual effect. A fault of W&B ends the logging to it, not the training.

    The arguments are those of :class:`lightning.pytorch.loggers.WandbLogger`; the project is by
    default that of ``WANDB_PROJECT``, or ncsn.
    """

    def __init__(
        self,
        project: str | None = None,
        save_dir: str = "lightning_logs",
        offline: bool = False,
        **kwargs: Any,
    ) -> None:
        project = project or os.environ.get("WANDB_PROJECT") or "ncsn"
        super().__init__(project=project, save_dir=save_dir, **kwargs)
        self._offline = (
            offline  # Lightning refuses it with log_model, but `wandb sync` uploads both
        )
        self._wandb_init.pop("anonymous", None)  # W&B no longer has it, and warns
        if sweep_run_id():  # the sweep decides, and W&B warns of other values
            self._wandb_init |= dict.fromkeys(("project", "entity", "id"))

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run, offline if it has to be."""
        if self._experiment is None:
            self._start()
            self._define_metrics()
            atexit.register(self._finish)  # before W&B's own handler
        return self._experiment

    version = property(_guarded(cast(Any, LightningWandbLogger.version).fget))

    @_guarded
    def _start(self) -> None:
        os.makedirs(self.save_dir or ".", exist_ok=True)
        timeout = UPLOAD_TIMEOUT if self._log_model else TIMEOUT
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(timeout))
        mode, reason = os.environ.get("WANDB_MODE") or "online", None
        if mode == "online" and not self._offline:
            os.environ.pop("WANDB_MODE", None)  # empty
            reason = offline_reason()
        if reason is None:
            self._wandb_init["settings"] = {"init_timeout": TIMEOUT}
            try:
                return super().experiment
            except Stopped:
                raise
            except Exception as error:  # a server that hangs, an unknown mode, ...
                reason = f"it could not be started with WANDB_MODE={mode} ({error})"
        self._offline = True
        self._wandb_init["settings"] = {"silent": True}  # it would say the same in five lines
        upload = f"wandb sync {Path(super().experiment.dir).parent}"
        _warn(f"W&B runs offline: {reason}. To upload the run later: {upload}")

    @_guarded
    def _define_metrics(self) -> None:
        common = {"step_metric": "trainer/global_step", "step_sync": True}  # Lightning's of all
        for name in LOSSES:
            self.experiment.define_metric(name, summary="min", **common)

    @_guarded
    def name_run(self, name: str) -> None:
        """Name the run, unless the user has."""
        if not (self._wandb_init["name"] or os.environ.get("WANDB_NAME")):
            self.experiment.name = name

    def _scan_and_log_checkpoints(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Log checkpoints as versions of an artifact, with their names (best, last) as aliases.

        Lightning would give the alias ``best`` to each callback's, and so to the last checkpoint.
        """
        import wandb

        name = self._checkpoint_name or f"model-{self.experiment.id}"
        for time, path, score, _ in _scan_checkpoints(
            checkpoint_callback, self._logged_model_time
        ):
            metadata = {"score": None if score is None else float(score)}
            artifact = wandb.Artifact(name, type="model", metadata=metadata)
            artifact.add_file(path, name="model.ckpt", policy=self.add_file_policy)
            self.experiment.log_artifact(artifact, aliases=["latest", Path(path).stem])
            self._logged_model_time[path] = time

    @_guarded
    def _finish(self) -> None:
        """Do what W&B's own handler does, which would show the traceback of a fault."""
        import wandb

        hooks = getattr(sys.exit, "__self__", None)  # W&B has replaced it, to know the status
        with suppress(SystemExit):  # from a service that has failed
            wandb.teardown(getattr(hooks, "exit_code", 0))


for _name, _method in vars(LightningWandbLogger).items():
    if inspect.isfunction(_method) and not _name.startswith("_"):
        setattr(WandbLogger, _name, _guarded(_method))

"""A W&B logger that never asks, never blocks and never stops training."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_warn


def offline_reason(timeout: float = 3.0) -> str | None:
    """Why W&B cannot be reached, or None if it can; prompts nobody, waits ``timeout`` seconds."""
    import requests

    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not (os.environ.get("WANDB_API_KEY") or requests.utils.get_netrc_auth(url)):
        return "there is no API key (`wandb login` stores one)"
    try:
        status = requests.head(url, timeout=timeout).status_code
    except requests.RequestException as error:
        return f"{url} cannot be reached ({type(error).__name__})"
    return f"{url} answers with status {status}" if status >= 500 else None


class WandbLogger(LightningWandbLogger):
    """Lightning's W&B logger, made safe to leave on.

    Without an API key or a network it runs offline and says once how to upload the run later.
    ``WANDB_MODE`` has its usual effect. A fault of W&B ends the logging to it, not the training.

    Args:
        project: The W&B project.
        name: Name of the run; W&B invents one by default.
        save_dir: Directory that holds W&B's own directory ``wandb/``.
        offline: Whether to run offline even with a key and a network.
        kwargs: See :class:`lightning.pytorch.loggers.WandbLogger`.
    """

    def __init__(
        self,
        project: str = "ncsn",
        name: str | None = None,
        save_dir: str = "lightning_logs",
        offline: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, save_dir=save_dir, offline=offline, project=project, **kwargs)
        self._wandb_init.pop("anonymous", None)  # W&B no longer has it, and warns
        self.failed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run, offline if it has to be."""
        if self._experiment is not None:
            return self._experiment
        os.makedirs(self.save_dir or ".", exist_ok=True)
        reason = None
        if not self._offline and (os.environ.get("WANDB_MODE") or "online") == "online":
            os.environ.pop("WANDB_MODE", None)
            reason = offline_reason()
            if reason is None:
                try:
                    self._wandb_init["settings"] = {"init_timeout": 15}
                    return super().experiment
                except Exception as error:  # a refused key, a server that hangs, ...
                    reason = f"it could not be started online ({error})"
            self._offline = True
            self._wandb_init["settings"] = {"silent": True}  # it would say the same in five lines
        try:
            run: Any = super().experiment
        except Exception as error:  # whatever W&B may raise: training is worth more
            self._give_up(error)
            self._experiment = run = _DummyExperiment()  # type: ignore[assignment]
        if reason and not self.failed:
            upload = f"wandb sync {Path(run.dir).parent}"
            rank_zero_warn(f"W&B runs offline: {reason}. To upload the run later: {upload}")
        return run

    def _give_up(self, error: Exception) -> None:
        self.failed = True
        rank_zero_warn(
            f"W&B failed ({type(error).__name__}: {error}) and is no longer used; training "
            "continues and the CSV log is complete."
        )


def _guarded(name: str) -> Callable[..., None]:
    def log(self: WandbLogger, *args: Any, **kwargs: Any) -> None:
        """As Lightning's own, but a fault is reported once, and ends the logging to W&B."""
        if self.failed:
            return
        try:
            getattr(super(WandbLogger, self), name)(*args, **kwargs)
        except Exception as error:  # as in experiment
            self._give_up(error)

    return log


for _name in ("log_metrics", "log_image", "log_video", "log_hyperparams"):
    setattr(WandbLogger, _name, _guarded(_name))

"""A W&B logger that never asks, never blocks and never stops training."""

import netrc
import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["WandbLogger"]


def offline_reason(timeout: float = 3.0) -> str | None:
    """Why W&B cannot be reached, or None if it can; asks nobody and takes ``timeout`` seconds."""
    import requests

    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not (os.environ.get("WANDB_API_KEY") or _netrc_has(urlsplit(url).hostname or "")):
        return "there is no API key (`wandb login` stores one)"
    try:
        requests.head(url, timeout=timeout)
    except requests.RequestException as error:
        return f"{url} cannot be reached ({type(error).__name__})"
    return None


def _netrc_has(host: str) -> bool:
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class WandbLogger(LightningWandbLogger):
    """Lightning's W&B logger, made safe to leave on.

    Without an API key or a network it runs offline and says once how to upload the run later;
    ``WANDB_MODE`` in the environment is obeyed as ever. A fault inside W&B is reported once and
    ends the logging to W&B, not the training.

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
        if self._experiment is None:
            if not self._offline and "WANDB_MODE" not in os.environ:
                reason = offline_reason()
                if reason:
                    self._offline = True
                    # W&B itself would say the same in five lines.
                    self._wandb_init["settings"] = {"silent": True}
                    rank_zero_warn(
                        f"W&B runs offline: {reason}. To upload the run later: "
                        f"wandb sync {self.save_dir}/wandb/latest-run"
                    )
            os.makedirs(self.save_dir or ".", exist_ok=True)
        return super().experiment

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See :meth:`lightning.pytorch.loggers.WandbLogger.log_metrics`."""
        self._guard(super().log_metrics, metrics, step)

    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        """See :meth:`lightning.pytorch.loggers.WandbLogger.log_image`."""
        self._guard(super().log_image, key, images, step, **kwargs)

    def log_video(
        self, key: str, videos: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        """See :meth:`lightning.pytorch.loggers.WandbLogger.log_video`."""
        self._guard(super().log_video, key, videos, step, **kwargs)

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """See :meth:`lightning.pytorch.loggers.WandbLogger.log_hyperparams`."""
        self._guard(super().log_hyperparams, params)

    def _guard(self, log: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if self.failed:
            return
        try:
            log(*args, **kwargs)
        except Exception as error:  # whatever W&B may raise: training is worth more
            self.failed = True
            rank_zero_warn(
                f"W&B failed ({type(error).__name__}: {error}) and is left out from here on; "
                "training goes on and the CSV log is complete."
            )

"""The files that ``predict`` writes."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ncsn import plots
from ncsn.errors import Stopped, UserError

if TYPE_CHECKING:
    from ncsn.modules import ScoreModule

__all__ = ["SampleWriter"]

ABOUT = "about.json"
"""In the directory of the parts: what they are of."""


class SampleWriter(BasePredictionWriter):
    """Writes samples as they are drawn, puts them together in ``samples.npz``, and draws some.

    The archive holds ``samples``, in the order of their numbers: uint8 of shape
    ``(n, channels, height, width)`` for images, float32 of shape ``(n, dim)`` for points. Those
    of a class-conditional model come with their ``labels``, shape ``(n,)``.

    Until all are there, each batch is a file in ``parts/``, from which an interrupted run goes on.

    Args:
        directory: Where the files are written.
        about: What the samples depend on, beside their numbers; what goes on in a directory with
            parts must agree with them.
        num_drawn: Number of samples in the picture ``samples.png``.

    Raises:
        UserError: If there are parts of other samples.
    """

    def __init__(self, directory: Path, about: dict[str, Any], num_drawn: int = 100) -> None:
        super().__init__(write_interval="batch")
        self.directory, self.about, self.num_drawn = directory, about, num_drawn
        self.parts = directory / "parts"
        self.bad: list[int] = []
        if self.is_begun(directory):
            before = json.loads((self.parts / ABOUT).read_text())
            for name in before:
                if before[name] != about[name]:
                    raise UserError(
                        f"--resume {directory} is of other samples: {name} was {before[name]}, "
                        f"and is {about[name]} now"
                    )

    @staticmethod
    def is_begun(directory: Path) -> bool:
        """Whether there are parts of an interrupted run in a directory."""
        return (directory / "parts" / ABOUT).is_file()

    def missing(self, numbers: Tensor) -> Tensor:
        """Those of the samples with the given numbers that have not been written."""
        written = [torch.arange(*_numbers(part)) for part in self._written()]
        return numbers[~torch.isin(numbers, torch.cat(written))] if written else numbers

    def _written(self) -> list[Path]:
        return sorted(self.parts.glob("*.npz"))

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what the parts are of."""
        if trainer.is_global_zero:
            self.parts.mkdir(parents=True, exist_ok=True)
            temporary = self.parts / f"{ABOUT}.part"
            temporary.write_text(json.dumps(self.about, indent=2))
            temporary.replace(self.parts / ABOUT)
        trainer.strategy.barrier("directory of samples")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write a batch of samples, images as uint8; whole, or not at all."""
        numbers, labels = batch
        bad = numbers[~prediction.flatten(1).isfinite().all(1)].tolist()
        self.bad += bad
        if trainer.world_size == 1:  # others would wait
            self._refuse_bad(trainer)
        if bad:
            return
        samples = plots.to_uint8(prediction) if prediction.ndim == 4 else prediction
        path = self.parts / f"{int(numbers[0]):09d}-{int(numbers[-1]) + 1:09d}.npz"
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            np.savez(file, samples=samples.cpu().numpy(), labels=labels.cpu().numpy())
        temporary.replace(path)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """When all samples are there, put them together on the first rank.

        Raises:
            UserError: If a sample is not finite.
        """
        self._refuse_bad(trainer)
        trainer.strategy.barrier("samples written")
        if not trainer.is_global_zero:
            return
        arrays: dict[str, np.ndarray] = {}
        for path in self._written():
            start, stop = (number - self.about["first_sample"] for number in _numbers(path))
            with np.load(path) as part:
                for name, values in part.items():
                    shape = self.about["num_samples"], *values.shape[1:]
                    whole = arrays.setdefault(name, np.empty(shape, values.dtype))
                    whole[start:stop] = values
        label: Tensor | None = torch.from_numpy(arrays["labels"])
        if not cast("ScoreModule", pl_module).network.num_classes:
            del arrays["labels"]
            label = None
        np.savez_compressed(self.directory / "samples.npz", allow_pickle=False, **arrays)
        samples = torch.from_numpy(arrays["samples"])
        self._draw(samples, label, self.directory / "samples.png")
        shutil.rmtree(self.parts)
        rank_zero_info(f"{len(samples):,} samples are in {self.directory / 'samples.npz'}")
        rank_zero_info(f"The first of them are drawn in {self.directory / 'samples.png'}")

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Say how to go on."""
        if isinstance(exception, Stopped) and self._written():
            exception.advice = f"; what is drawn is kept: go on with --resume {self.directory}"

    def _refuse_bad(self, trainer: pl.Trainer) -> None:
        if not trainer.strategy.reduce_boolean_decision(not self.bad):
            which = f"number {self.bad[0]} and {len(self.bad) - 1} more" if self.bad else "some"
            raise UserError(
                f"samples are not finite ({which}): lower the sampler's step size, or check the "
                "weights"
            )

    def _draw(self, samples: Tensor, label: Tensor | None, path: Path) -> None:
        if samples.ndim == 4:
            drawn = samples[: self.num_drawn].float() / 127.5 - 1
            label = None if label is None else label[: self.num_drawn]
            plots.save_grid(plots.by_class(drawn, label), path)
        elif samples.shape[1] == 2:
            title = f"samples ({len(samples):,} points)"
            plots.plot_samples(None, samples, title).savefig(path)


def _numbers(part: Path) -> list[int]:
    """Numbers of the first sample in a part, and of the first behind it."""
    return [int(number) for number in part.stem.split("-")]

"""The files that ``predict`` writes."""

from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ncsn import plots
from ncsn.errors import UserError

if TYPE_CHECKING:
    from ncsn.modules import ScoreModule

__all__ = ["SampleWriter"]


class SampleWriter(BasePredictionWriter):
    """Gathers the samples of all ranks into ``samples.npz``, and draws the first of them.

    The archive holds ``samples``, in the order of their numbers: uint8 of shape
    ``(n, channels, height, width)`` for images, float32 of shape ``(n, dim)`` for points. Those
    of a class-conditional model come with their ``labels``, shape ``(n,)``.

    Args:
        num_drawn: Number of samples in the picture ``samples.png``.
    """

    def __init__(self, num_drawn: int = 100) -> None:
        super().__init__(write_interval="batch")
        self.num_drawn = num_drawn
        self.directory = Path()
        self.batches: list[tuple[int, Tensor, Tensor]] = []
        self.bad: list[int] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Agree on the directory, which all ranks have to take part in."""
        self.directory = Path(trainer.log_dir or "")
        self.batches, self.bad = [], []

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
        """Keep a batch of samples, images as uint8, in the memory of the host."""
        samples = plots.to_uint8(prediction) if prediction.ndim == 4 else prediction
        numbers, labels = batch
        self.bad += numbers[~prediction.flatten(1).isfinite().all(1)].tolist()
        if trainer.world_size == 1:  # others would wait
            self._refuse_bad(trainer)
        self.batches.append((int(numbers[0]), samples.cpu(), labels.cpu()))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write each rank's part; when all are there, put them together on the first rank.

        Raises:
            UserError: If a sample is not finite.
        """
        self._refuse_bad(trainer)
        self.directory.mkdir(parents=True, exist_ok=True)
        torch.save(self.batches, self._part(trainer.global_rank))
        trainer.strategy.barrier("samples written")
        if not trainer.is_global_zero:
            return
        parts = [self._part(rank) for rank in range(trainer.world_size)]
        batches = chain.from_iterable(torch.load(part, weights_only=True) for part in parts)
        _, of_samples, of_labels = zip(*sorted(batches, key=itemgetter(0)), strict=True)
        samples = torch.cat(of_samples)
        arrays: dict[str, Any] = {"samples": samples.numpy()}
        label = None
        if cast("ScoreModule", pl_module).network.num_classes:
            label = torch.cat(of_labels)
            arrays["labels"] = label.numpy()
        np.savez_compressed(self.directory / "samples.npz", **arrays)
        for part in parts:
            part.unlink()
        self._draw(samples, label, self.directory / "samples.png")
        rank_zero_info(f"{len(samples):,} samples are in {self.directory / 'samples.npz'}")
        rank_zero_info(f"The first of them are drawn in {self.directory / 'samples.png'}")

    def _refuse_bad(self, trainer: pl.Trainer) -> None:
        if not trainer.strategy.reduce_boolean_decision(not self.bad):
            which = f"number {self.bad[0]} and {len(self.bad) - 1} more" if self.bad else "some"
            raise UserError(
                f"samples are not finite ({which}): lower the sampler's step size, or check the "
                "weights"
            )

    def _part(self, rank: int) -> Path:
        return self.directory / f"samples-rank{rank}.pt"

    def _draw(self, samples: Tensor, label: Tensor | None, path: Path) -> None:
        if samples.ndim == 4:
            drawn = samples[: self.num_drawn].float() / 127.5 - 1
            label = None if label is None else label[: self.num_drawn]
            plots.save_grid(plots.by_class(drawn, label), path)
        elif samples.shape[1] == 2:
            title = f"samples ({len(samples):,} points)"
            plots.plot_samples(None, samples, title).savefig(path)

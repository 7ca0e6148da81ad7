"""The files that ``predict`` writes."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ncsn import plots
from ncsn.evaluation import kind_of

if TYPE_CHECKING:
    from ncsn.modules import ScoreModule

ABOUT = "about.json"  # in the directory of the parts: what the samples depend on


class SampleWriter(BasePredictionWriter):
    """Writes samples as they are drawn, joins them in ``samples.npz``, and draws some.

    The archive holds ``samples``, in the order of their numbers: uint8 of shape
    ``(n, channels, height, width)`` for images, float32 of shape ``(n, dim)`` for points; from a
    class-conditional model also ``labels``, shape ``(n,)``. Until it is complete, each batch is a
    file in ``parts/``, from which an interrupted run resumes.

    Args:
        directory: Where the files are written.
        about: What the samples depend on, in addition to their numbers; resuming needs the same.

    Raises:
        ValueError: If there are parts of other samples.
    """

    def __init__(self, directory: Path, about: dict[str, Any]) -> None:
        super().__init__(write_interval="batch")
        self.directory, self.about = directory, about
        self.parts = directory / "parts"
        self.bad: list[int] = []
        if self.has_parts(directory):
            for name, before in json.loads((self.parts / ABOUT).read_text()).items():
                if before != about[name]:
                    raise ValueError(
                        f"--resume {directory} has other samples: {name} was {before}, and is "
                        f"{about[name]} now"
                    )

    @staticmethod
    def has_parts(directory: Path) -> bool:
        """Whether there are parts of an interrupted run in a directory."""
        return (directory / "parts" / ABOUT).is_file()

    def missing(self, numbers: Tensor) -> Tensor:
        """Those of the samples with the given numbers that have not been written."""
        written = [torch.arange(*_numbers(part)) for part in self._written()]
        return numbers[~torch.isin(numbers, torch.cat(written))] if written else numbers

    def _written(self) -> list[Path]:
        return sorted(self.parts.glob("*.npz"))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what the parts depend on."""
        if trainer.is_global_zero:
            self.parts.mkdir(parents=True, exist_ok=True)
            temporary = self.parts / f"{ABOUT}.part"
            temporary.write_text(json.dumps(self.about, indent=2))
            temporary.replace(self.parts / ABOUT)
        trainer.strategy.barrier("directory of samples")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write a batch of samples in one piece."""
        numbers, labels = batch
        bad = numbers[~prediction.flatten(1).isfinite().all(1)].tolist()
        self.bad += bad
        if trainer.world_size == 1:  # the others would have to take part
            self._check_finite(trainer)
        if bad:
            return
        samples = kind_of(prediction.shape[1:]).encode(prediction)
        path = self.parts / f"{int(numbers[0]):09d}-{int(numbers[-1]) + 1:09d}.npz"
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            np.savez(file, samples=samples.cpu().numpy(), labels=labels.cpu().numpy())
        temporary.replace(path)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When all samples are written, join them on the first rank.

        Raises:
            FloatingPointError: If a sample is not finite.
        """
        self._check_finite(trainer)
        trainer.strategy.barrier("samples written")
        if trainer.is_global_zero:
            self._join(cast("ScoreModule", pl_module).network.num_classes)

    def _join(self, num_classes: int) -> None:
        arrays: dict[str, np.ndarray] = {}
        for path in self._written():
            start, stop = (number - self.about["first_sample"] for number in _numbers(path))
            with np.load(path) as part:
                for name, values in part.items():
                    shape = self.about["num_samples"], *values.shape[1:]
                    whole = arrays.setdefault(name, np.empty(shape, values.dtype))
                    whole[start:stop] = values
        if not num_classes:
            del arrays["labels"]
        archive = self.directory / "samples.npz"
        np.savez_compressed(archive, allow_pickle=False, **arrays)
        rank_zero_info(f"{self.about['num_samples']:,} samples are in {archive}")
        kind = kind_of(arrays["samples"].shape[1:])
        first = {name: torch.from_numpy(each[: kind.num_drawn]) for name, each in arrays.items()}
        pictures = kind.draw_samples(kind.decode(first["samples"]), first.get("labels"))
        for name, picture in pictures.items():
            path = plots.save(picture, self.directory / name)
            rank_zero_info(f"The first of them are drawn in {path}")
        shutil.rmtree(self.parts)

    def _check_finite(self, trainer: Trainer) -> None:
        if not trainer.strategy.reduce_boolean_decision(not self.bad):
            which = f"number {self.bad[0]} and {len(self.bad) - 1} more" if self.bad else "some"
            raise FloatingPointError(
                f"samples are not finite ({which}): lower the sampler's step size, or check the "
                "weights"
            )


def _numbers(part: Path) -> list[int]:
    """The number of the first sample in a part, and that of the first after it."""
    return [int(number) for number in part.stem.split("-")]

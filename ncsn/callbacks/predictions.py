"""The files that ``predict`` writes."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from ncsn import plots
from ncsn.evaluation import kind_of
from ncsn.evaluation.files import replacing

if TYPE_CHECKING:
    from ncsn.modules import ScoreModule

ABOUT = "about.json"  # in the directory of the parts: what the samples depend on


class Part(NamedTuple):
    """Samples, and which rows of all they are."""

    rows: slice
    samples: np.ndarray
    labels: np.ndarray


class SampleWriter(BasePredictionWriter):
    """Writes samples as they are drawn, joins them in ``samples.npz``, and draws some.

    The archive holds ``samples``, in the order of their numbers: uint8 of shape
    ``(n, channels, height, width)`` for images, float32 of shape ``(n, dim)`` for points; from a
    class-conditional model also ``labels``, shape ``(n,)``. Until it is complete, each batch is a
    file in ``parts/``, from which an interrupted run resumes.

    Args:
        directory: Where the files are written; by default, the run's directory.
        about: What the samples depend on, in addition to their numbers; resuming needs the same.
        data_shape: Shape of one sample.
        png: Whether to write each image as ``png/NUMBER.png`` as well.

    Raises:
        ValueError: If there are parts of other samples, or ``png`` is set for data that PNGs
            cannot show.
    """

    def __init__(
        self,
        directory: Path | None,
        about: dict[str, Any],
        data_shape: tuple[int, ...],
        png: bool = False,
    ) -> None:
        super().__init__(write_interval="batch")
        self.about, self.data_shape, self.png = about, data_shape, png
        self.bad: list[int] = []
        if png and not plots.is_png(data_shape):
            raise ValueError(
                f"--png is for grey or colour images, and the data has shape {data_shape}"
            )
        if directory is not None:
            self.directory = directory
            self._check_same_samples()

    @property
    def parts(self) -> Path:
        """The directory of the parts."""
        return self.directory / "parts"

    @staticmethod
    def has_parts(directory: Path) -> bool:
        """Whether there are parts of an interrupted run in a directory."""
        return (directory / "parts" / ABOUT).is_file()

    def _check_same_samples(self) -> None:
        """Compare what the parts depend on."""
        try:
            stored = json.loads((self.parts / ABOUT).read_bytes())
            before = {name: stored[name] for name in self.about}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self.parts / ABOUT} is damaged, so nothing tells which samples are there: "
                "predict again without --resume"
            ) from error
        for name, now in self.about.items():
            if before[name] != now:
                raise ValueError(
                    f"--resume {self.directory} has other samples: {name} was {before[name]}, and "
                    f"is {now} now"
                )

    def missing(self, numbers: Tensor) -> Tensor:
        """The given sample numbers whose part is missing or damaged."""
        whole = torch.zeros(len(numbers), dtype=torch.bool)
        for path in self.parts.glob("*.npz"):
            if (part := self._read(path)) is not None:
                whole[part.rows] = True
            else:
                rank_zero_warn(f"{path} is damaged: its samples are drawn again")
        return numbers[~whole]

    def _read(self, path: Path) -> Part | None:
        """A part, unless it is damaged."""
        try:
            start, stop = (int(number) - self.about["first_sample"] for number in _numbers(path))
            with np.load(path) as file:
                samples, labels = file["samples"], file["labels"]
        except Exception:  # whatever foreign names and bytes may raise
            return None
        shape = stop - start, *self.data_shape
        if not 0 <= start < stop <= self.about["num_samples"] or labels.shape != shape[:1]:
            return None
        return Part(slice(start, stop), samples, labels) if samples.shape == shape else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out the run's directory, which all ranks have to take part in."""
        if not hasattr(self, "directory"):
            self.directory = Path(trainer.log_dir or ".")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what the parts depend on."""
        if trainer.is_global_zero:
            with replacing(self.parts / ABOUT) as file:
                file.write(json.dumps(self.about, indent=2).encode())
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
        with replacing(path) as file:
            np.savez(file, samples=samples.cpu().numpy(), labels=labels.cpu().numpy())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When all samples are written, join them on the first rank.

        Raises:
            FloatingPointError: If a sample is not finite.
            ValueError: If some were not drawn.
        """
        self._check_finite(trainer)
        trainer.strategy.barrier("samples written")
        if trainer.is_global_zero:
            self._join(cast("ScoreModule", pl_module).network.num_classes)

    def _join(self, num_classes: int) -> None:
        arrays: dict[str, np.ndarray] = {}
        num_samples = self.about["num_samples"]
        drawn = np.zeros(num_samples, bool)
        for part in filter(None, map(self._read, self.parts.glob("*.npz"))):
            for name, values in (("samples", part.samples), ("labels", part.labels)):
                shape = num_samples, *values.shape[1:]
                arrays.setdefault(name, np.empty(shape, values.dtype))[part.rows] = values
            drawn[part.rows] = True
        if not drawn.all():
            raise ValueError(
                f"{np.sum(~drawn):,} of {num_samples:,} samples are missing or damaged in "
                f"{self.parts}: --resume {self.directory} draws them"
            )
        if not num_classes:
            del arrays["labels"]
        archive = self.directory / "samples.npz"
        with replacing(archive) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        rank_zero_info(f"{num_samples:,} samples are in {archive}")
        if self.png:
            images = torch.from_numpy(arrays["samples"])
            plots.save_pngs(images, self.directory / "png", self.about["first_sample"])
        kind = kind_of(arrays["samples"].shape[1:])
        first = {name: torch.from_numpy(each[: kind.num_drawn]) for name, each in arrays.items()}
        with plots.optional("picture samples"):
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


def enough_for(ranks: int, numbers: Tensor, all_numbers: Tensor) -> Tensor:
    """Numbers of samples, with others that are drawn again if each rank would not have one."""
    others = all_numbers[~torch.isin(all_numbers, numbers)]
    return torch.cat((numbers, others[: max(0, ranks - len(numbers))])).sort().values

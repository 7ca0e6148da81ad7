"""What ``test`` reports beside the loss: scores of samples, likelihood, losses level by level."""

import math
from abc import ABC, abstractmethod
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torchmetrics import CatMetric

from ncsn import plots
from ncsn.callbacks.samples import data_of, evaluating, reference_points, send_picture
from ncsn.errors import UserError
from ncsn.evaluation import Report, Score, image_scores, inception_scores, mean_score, point_scores
from ncsn.exact import Empirical
from ncsn.metrics import (
    extract_features,
    load_features,
    losses_per_level,
    nearest_neighbours,
)
from ncsn.noise import SampleGenerator, Stream, global_seed, seeded_generator, uniform_like

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncsn.data import InMemoryDataModule
    from ncsn.modules import ScoreModule

__all__ = ["Evaluation", "ImageEvaluation", "PointEvaluation"]

VALUES_AT_A_TIME = 2**18
"""Values in a batch of samples, or of examples whose likelihood is computed."""

NOTES = ("features", "likelihood_solver_error")
"""What the table says of how it was made, beside the sampler."""


class Evaluation(Callback, ABC):
    """Base class: judges a model by its samples, its likelihood and its loss at each noise level.

    The result is printed as a table, written to ``evaluation.json``, ``scores.csv``,
    ``levels.csv`` and ``pictures/`` in the run's directory, and sent to the loggers. Drawing
    samples and computing likelihoods is shared among ranks; the first rank does the rest.

    Args:
        num_samples: Number of samples that are judged.
        num_likelihood_examples: Number of test examples whose log likelihood is computed, if the
            model has one; 0 for none.
        inception: Whether to compute Inception's FID as well, whose weights must be at hand.
    """

    def __init__(
        self,
        num_samples: PositiveInt,
        num_likelihood_examples: NonNegativeInt,
        inception: bool = False,
    ) -> None:
        self.num_samples, self.num_likelihood_examples = num_samples, num_likelihood_examples
        self.inception = inception
        self.directory = Path()

    @abstractmethod
    def judge(
        self, module: "ScoreModule", data: "InMemoryDataModule", samples: Tensor, report: Report
    ) -> dict[str, "Figure"]:
        """Add scores and losses to the report, and draw pictures.

        Args:
            module: The model.
            data: Its data.
            samples: Shape ``(n, *data_shape)``.
            report: Where the results go.

        Returns:
            Pictures by name.
        """

    @abstractmethod
    def judge_likelihood(
        self, nll: Tensor, x: Tensor, data: "InMemoryDataModule"
    ) -> dict[str, Score]:
        """Scores from the negative log likelihoods ``nll``, in nats, of the examples ``x``."""

    # ---- Lightning's hooks -------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Agree on the directory, which all ranks have to take part in."""
        self.directory = Path(trainer.log_dir or "")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate, and log the scores.

        Raises:
            UserError: If samples are not finite, or too few.
        """
        module, data = cast("ScoreModule", pl_module), data_of(trainer)
        num = min(self.num_samples, self.most_samples(data))
        if num < trainer.world_size:
            raise UserError(f"{num} samples cannot be shared among {trainer.world_size} processes")
        with evaluating(trainer, module):
            samples = self._draw(trainer, module, num)
            report = Report(_about(trainer, module, samples))
            self._likelihood(trainer, module, data, report)
            figures: dict[str, Figure] = {}
            failure = ""
            if trainer.is_global_zero:
                try:
                    figures = self.judge(module, data, samples, report)
                except (ValueError, UserError) as error:
                    failure = str(error)
        report, failure = trainer.strategy.broadcast((report, failure))
        if failure:
            raise UserError(failure)
        for name, score in report.scores.items():
            pl_module.log(f"test/{name}", score.value)
            for key in ("standard_error", "floor", "floor_standard_error"):
                if getattr(score, key) is not None:
                    pl_module.log(f"test/{name}_{key}", getattr(score, key))
        if trainer.is_global_zero:
            report.write(self.directory)
            for name, figure in figures.items():
                path = self.directory / "pictures" / f"{name}.png"
                path.parent.mkdir(exist_ok=True)
                figure.savefig(path)
                send_picture(trainer, path)
            _print(report, self.directory)

    def most_samples(self, data: "InMemoryDataModule") -> int:
        """As many as there are test examples, so that the floor has the same size."""
        return len(data.splits["test"])

    # ---- shared among ranks ------------------------------------------------------------------

    def _draw(self, trainer: pl.Trainer, module: "ScoreModule", num: int) -> Tensor:
        """Samples 0, ..., num - 1, on every rank."""
        samples = CatMetric(nan_strategy="disable").to(module.device)
        batches = _batches(trainer, module, num)
        steps = len(batches) * module.sampler.num_evaluations(len(module.noise_levels))
        bar = track(range(steps), "Sampling", disable=not trainer.is_global_zero)
        with closing(iter(bar)) as progress:  # type: ignore[type-var]

            def monitor(sigma: float, x: Tensor) -> None:
                next(progress, None)

            for start, stop in batches:
                label = module.labels_of_samples(start, stop)
                samples.update(module.draw(start, stop, label, monitor=monitor))
            next(progress, None)  # completes the bar
        return samples.compute().view(num, *module.data_shape)

    def _likelihood(
        self,
        trainer: pl.Trainer,
        module: "ScoreModule",
        data: "InMemoryDataModule",
        report: Report,
    ) -> None:
        """Add the negative log likelihood of the first test examples to the report."""
        from ncsn.modules import NCSN

        num = min(self.num_likelihood_examples, len(data.splits["test"]))
        if num < trainer.world_size or not isinstance(module, NCSN):
            return
        x = data.to_float(data.splits["test"].data[:num].to(module.device))
        values, errors = (CatMetric(nan_strategy="disable").to(x.device) for _ in range(2))
        for start, stop in track(
            _batches(trainer, module, num), "Likelihood", disable=not trainer.is_global_zero
        ):
            # The noise of an example depends on its number alone, not on the batch.
            generator = SampleGenerator(0, start, stop, device=x.device)
            part = x[start:stop]
            if len(module.data_shape) == 3:
                # Uniform dequantisation: a grey value stands for an interval of width 1 / 127.5.
                part = part + uniform_like(part, generator) / 255
            value, error = module.log_likelihood(part, generator=generator)
            values.update(-value)
            errors.update(error)
        report.scores |= self.judge_likelihood(values.compute().view(-1), x, data)
        nats = errors.compute().mean().item()
        report.about["likelihood_solver_error"] = f"{nats:.1g} nats"


class PointEvaluation(Evaluation):
    """For points: distances to fresh data, likelihood in nats, and the exact score beside ours.

    Data whose density is not known is compared with the training data, and the floor is that of
    the test data.

    Args:
        num_samples: See :class:`Evaluation`.
        num_likelihood_examples: See :class:`Evaluation`.
        inception: Refused: points are no images.
    """

    def __init__(
        self,
        num_samples: PositiveInt = 5000,
        num_likelihood_examples: NonNegativeInt = 1000,
        inception: bool = False,
    ) -> None:
        if inception:
            raise UserError("--inception is for images: leave it out")
        super().__init__(num_samples, num_likelihood_examples)

    def most_samples(self, data: "InMemoryDataModule") -> int:
        """No limit, where fresh data can be drawn."""
        return super().most_samples(data) if data.exact is None else self.num_samples

    def judge(
        self, module: "ScoreModule", data: "InMemoryDataModule", samples: Tensor, report: Report
    ) -> dict[str, "Figure"]:
        """Distances, and the excess over the exact score's loss."""
        test = data.splits["test"].data.to(samples)
        title = f"samples ({len(samples):,} points)"
        figures = {"samples": plots.plot_samples(test, samples, title)}
        data_points, fresh = reference_points(data, samples, "test")
        report.scores |= point_scores(samples, data_points, fresh)
        if data.exact is None:
            return figures
        exact = data.exact.to(module.device)
        report.levels = _losses(module, {"exact": exact}, fresh[:2000])
        errors = [row["excess_standard_error"] for row in report.levels]
        report.scores["excess_loss"] = Score(
            "excess loss per dim., mean of levels",
            sum(row["excess"] for row in report.levels) / len(errors),
            math.hypot(*errors) / len(errors),
            floor=0.0,
            floor_standard_error=0.0,
            better="lower",
        )
        x = plots.plane_grid(test, num=64)
        levels = module.noise_levels
        shown = levels[torch.linspace(0, len(levels) - 1, min(3, len(levels))).round().long()]
        fields = [
            (s.item(), module.score(x, s.expand(len(x))), exact(x, s.expand(len(x))))
            for s in shown
        ]
        figures["fields"] = plots.plot_fields(test, x, fields)
        figures["levels"] = plots.plot_levels({"model": report.levels})
        return figures

    def judge_likelihood(
        self, nll: Tensor, x: Tensor, data: "InMemoryDataModule"
    ) -> dict[str, Score]:
        """In nats, beside the true density of the same points."""
        title = "negative log likelihood (nats)"
        if data.exact is None:
            return {"nll": mean_score(title, nll)}
        floor = -data.exact.to(x.device).log_density(x, x.new_zeros(len(x))).to(nll)
        excess = mean_score("the same, above the true density's", nll - floor)
        excess.floor = excess.floor_standard_error = 0.0
        return {"nll": mean_score(title, nll, floor), "excess_nll": excess}


class ImageEvaluation(Evaluation):
    """For images: distances in a feature network, copies, bits per dimension, bracketed losses.

    The loss of a perfect score lies between those of the empirical scores of the test set, which
    knows the answers, and, at large noise levels, of the training set. At small levels the latter
    shows how far from the test images the training images are.

    Args:
        num_samples: See :class:`Evaluation`.
        num_likelihood_examples: See :class:`Evaluation`.
        inception: See :class:`Evaluation`.
    """

    def __init__(
        self,
        num_samples: PositiveInt = 1000,
        num_likelihood_examples: NonNegativeInt = 128,
        inception: bool = False,
    ) -> None:
        super().__init__(num_samples, num_likelihood_examples, inception)

    def judge(
        self, module: "ScoreModule", data: "InMemoryDataModule", samples: Tensor, report: Report
    ) -> dict[str, "Figure"]:
        """Distances, fidelity, diversity, classes, copies, and the losses."""
        train, labels = data.splits["train"].data.to(samples.device), data.splits["train"].labels
        test = data.splits["test"].data.to(samples.device)
        network = data.feature_network and load_features(data.feature_network).to(samples.device)
        report.scores |= image_scores(samples, train, labels, test[: len(samples)], network)
        if self.inception:
            report.scores |= inception_scores(samples, train, test[: len(samples)])
        references = {
            "empirical_train": Empirical(data.to_float(train)),
            "empirical_test": Empirical(data.to_float(test)),
        }
        x = data.to_float(test[: min(256, len(samples))])
        report.levels = _losses(module, references, x)
        near = nearest_neighbours(plots.to_uint8(samples).float(), train.float())
        ratio = near.distances[:, 0] / near.distances[:, 1]
        closest = ratio.argsort()[:12]
        figures = {
            "levels": plots.plot_levels({"model": report.levels}),
            "neighbours": plots.plot_neighbours(
                samples[closest], data.to_float(train[near.indices[closest]]), ratio[closest]
            ),
        }
        if network is not None:
            report.about["features"] = network.title
            classes = extract_features(network, plots.to_uint8(samples)).logits.argmax(1)
            figures["classes"] = plots.plot_classes(labels, classes.cpu(), network.title)
        return figures

    def judge_likelihood(
        self, nll: Tensor, x: Tensor, data: "InMemoryDataModule"
    ) -> dict[str, Score]:
        """In bits per dimension of images of 256 grey values."""
        bits = nll / (math.log(2) * x[0].numel()) + math.log2(127.5)
        return {"bits_per_dim": mean_score("bits per dimension", bits)}


def _batches(trainer: pl.Trainer, module: "ScoreModule", num: int) -> list[tuple[int, int]]:
    """The part of 0, ..., num - 1 that this rank takes care of, in batches (start, stop)."""
    rank, size = trainer.global_rank, trainer.world_size
    first, last = rank * num // size, (rank + 1) * num // size
    step = max(1, VALUES_AT_A_TIME // math.prod(module.data_shape))
    return [(start, min(start + step, last)) for start in range(first, last, step)]


def _losses(
    module: "ScoreModule", references: dict[str, Any], x: Tensor
) -> list[dict[str, float]]:
    generator = seeded_generator(Stream.TEST, device=x.device)
    levels = module.noise_levels
    rows = losses_per_level(module.score, references, x, levels, generator)
    return list(track(rows, "Losses", total=len(levels)))


def _about(trainer: pl.Trainer, module: "ScoreModule", samples: Tensor) -> dict[str, Any]:
    """What was evaluated, and how."""
    return {
        "checkpoint": str(trainer.ckpt_path),
        "model": type(module).__name__,
        "data": type(data_of(trainer)).__name__,
        "sampler": str(module.sampler),
        "num_evaluations": module.sampler.num_evaluations(len(module.noise_levels)),
        "num_samples": len(samples),
        "seed": global_seed(),
        "time": datetime.now().isoformat(timespec="seconds"),
    }


def _print(report: Report, directory: Path) -> None:
    """Print the scores as a table."""
    about = report.about
    caption = [
        "± one standard error; floor: as many fresh examples in place of the samples",
        *(f"{name.replace('_', ' ')}: {about[name]}" for name in NOTES if name in about),
        f"with levels and pictures in {directory}",
    ]
    table = Table(
        title=f"{about['num_samples']:,} samples of {about['checkpoint']}\n{about['sampler']}",
        caption="\n".join(caption),
    )
    for heading in ("score", "value", "floor", "better"):
        table.add_column(heading)
    for score in report.scores.values():
        table.add_row(score.title, score.formatted, score.formatted_floor, score.better)
    Console().print(table)

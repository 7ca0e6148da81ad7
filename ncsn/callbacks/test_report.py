"""What ``test`` reports in addition to the loss: samples, likelihood, losses level by level."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import track
from torch import Tensor
from torchmetrics import CatMetric

from ncsn import plots
from ncsn.callbacks.common import (
    about_model,
    batches_of,
    data_of,
    draw_samples,
    evaluating,
    in_precision,
    labels_like_data,
    model_of,
    on_first_rank,
    write_pictures,
)
from ncsn.evaluation import Kind, Model, Reference, Report
from ncsn.evaluation.classifier import classifier_accuracy
from ncsn.evaluation.images import inception_distance
from ncsn.evaluation.kinds import Pictures
from ncsn.exact import Empirical
from ncsn.random import SampleGenerator

if TYPE_CHECKING:
    from ncsn.modules import ScoreModule


class TestReport(Callback):
    """Evaluates a model by its samples, its likelihood and its loss at each noise level.

    The result is printed as a table, written to ``evaluation.json``, ``estimates.csv``,
    ``levels.csv`` and ``pictures/`` in the run's directory, and sent to the loggers. Ranks share
    the drawing of samples and the likelihoods; the first rank does the rest.

    Args:
        num_samples: Number of samples to draw; by default 5,000 points or 1,000 images.
        num_likelihood_examples: Number of test examples whose log likelihood is computed, if the
            model has one; by default 1,000 points or 128 images; 0 for none.
        inception: Whether to compute Inception's FID as well, which needs its weights.
        with_classifier: Whether to compute
            :func:`ncsn.evaluation.classifier.classifier_accuracy` as well.
    """

    __test__ = False  # not one of pytest's

    def __init__(
        self,
        num_samples: int | None = None,
        num_likelihood_examples: int | None = None,
        inception: bool = False,
        with_classifier: bool = False,
    ) -> None:
        self.num_samples, self.num_likelihood_examples = num_samples, num_likelihood_examples
        self.inception, self.with_classifier = inception, with_classifier
        self.directory = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the directory, which all ranks have to take part in."""
        self.directory = Path(trainer.log_dir or "")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate, and log the estimates.

        Raises:
            ValueError: If samples are not finite, or too few.
        """
        data = data_of(trainer)
        kind, reference = data.kind, data.reference("test")
        with evaluating(pl_module) as module:
            num = int(min(self.num_samples or kind.num_samples, kind.max_samples(reference)))
            labels = labels_like_data(module, reference, num)
            samples = draw_samples(trainer, module, num, labels=labels)
            report = Report(about_model(trainer, module, samples) | kind.notes(reference))
            self.add_likelihood(trainer, module, kind, reference, report)
            model = model_of(trainer, module)
            add = partial(self.add_samples, model, kind, samples, labels, reference, report)
            pictures = on_first_rank(trainer, add)
        report = trainer.strategy.broadcast(report)
        for name, estimate in report.estimates.items():
            pl_module.log(f"test/{name}", estimate.value)
            for key in ("standard_error", "floor", "floor_standard_error"):
                if getattr(estimate, key) is not None:
                    pl_module.log(f"test/{name}_{key}", getattr(estimate, key))
        if trainer.is_global_zero:
            report.write(self.directory)
            write_pictures(trainer, lambda: pictures or {}, self.directory / "pictures")
            report.print(self.directory)

    def add_likelihood(
        self,
        trainer: Trainer,
        module: "ScoreModule",
        kind: Kind,
        reference: Reference,
        report: Report,
    ) -> None:
        """Add the negative log likelihood of the first test examples, if the model has one.

        The flow starts from the training examples, noised.
        """
        num = self.num_likelihood_examples
        num = min(kind.num_likelihood_examples if num is None else num, len(reference.held_out))
        log_likelihood = getattr(module, "log_likelihood", None)
        if len(module.noise_levels) < 2:
            report.about["likelihood"] = "none, since there is no flow with one noise level"
            return
        if not module.has_marginal_score:
            report.about["likelihood"] = (
                "none, since label_dropout=0 trains no unconditional score"
            )
            return
        if num == 0 or log_likelihood is None:
            return
        if num < trainer.world_size:
            raise ValueError(
                f"{num} likelihoods cannot be shared among {trainer.world_size} processes: raise "
                "--num_likelihood_examples, or set it to 0"
            )
        if module.network.num_classes:
            report.about["likelihood"] = "of the data of all classes, without their labels"
        x, train = (
            kind.decode(part.to(module.device))
            for part in (reference.held_out[:num], reference.train)
        )
        prior, sigma_min = Empirical(train), module.sampling_levels[-1].item()
        log_likelihood = in_precision(trainer, log_likelihood)
        values, errors = (CatMetric(nan_strategy="disable").to(x.device) for _ in range(2))
        for start, stop in track(
            batches_of(trainer, module, num), "Likelihood", disable=not trainer.is_global_zero
        ):
            # The noise of an example depends on its number alone, not on the batch.
            generator = SampleGenerator(0, start, stop, device=x.device)
            density = partial(log_likelihood, prior=prior, generator=generator)
            part = x[start:stop]
            value, error = kind.log_likelihood(density, part, reference, sigma_min, generator)
            values.update(-value)
            errors.update(error)
        report.estimates |= kind.likelihood(values.compute().view(-1), x, reference)
        nats = errors.compute().mean().item()
        report.about["likelihood_solver_error"] = f"{nats:.1g} nats"

    def add_samples(
        self,
        model: Model | None,
        kind: Kind,
        samples: Tensor,
        labels: Tensor | None,
        reference: Reference,
        report: Report,
    ) -> Pictures:
        """Add what is measured on samples and on levels; returns pictures by name."""
        estimates, report.levels, pictures = kind.evaluate(model, samples, reference)
        report.estimates |= estimates
        with plots.optional("picture samples"):
            classes = None if labels is None else labels[: kind.num_drawn]
            pictures |= kind.draw_samples(samples[: kind.num_drawn], classes, reference)
        if self.inception:
            report.estimates |= inception_distance(samples, reference)
        if self.with_classifier and labels is not None:
            report.estimates |= classifier_accuracy(kind.encode(samples), labels, reference)
        return pictures

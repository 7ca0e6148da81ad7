"""What ``diagnose`` reports: whether the network or the solver keeps samples from the data."""

from copy import copy
from functools import partial
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from ncsn.callbacks.common import (
    about_model,
    data_of,
    draw_samples,
    evaluating,
    labels_like_data,
    model_of,
    on_first_rank,
    write_pictures,
)
from ncsn.evaluation.diagnosis import EXACT, diagnose, solvers
from ncsn.evaluation.estimate import MIN_SAMPLES


class Diagnosis(Callback):
    """Draws the same samples with several solvers, and looks at the network's score.

    The result is printed as a table and a sentence, and written to ``diagnosis.json``,
    ``estimates.csv``, ``levels.csv`` and ``pictures/`` in the run's directory. Ranks share the
    drawing of samples; the first rank does the rest.

    Args:
        num_samples: Number of samples of each solver; by default 5,000 points or 1,000 images.
    """

    def __init__(self, num_samples: int | None = None) -> None:
        self.num_samples = num_samples
        self.directory = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the directory, which all ranks have to take part in."""
        self.directory = Path(trainer.log_dir or "")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, compare, and write.

        Raises:
            ValueError: If samples are not finite, or too few.
        """
        data = data_of(trainer)
        kind, reference = data.kind, data.reference("test")
        num = int(min(self.num_samples or kind.num_samples, kind.max_samples(reference)))
        if num < MIN_SAMPLES:
            raise ValueError(
                f"{num} samples are too few to compare: --num_samples and the number of test "
                f"examples must be at least {MIN_SAMPLES}"
            )
        with evaluating(pl_module) as module:
            model = model_of(trainer, module)
            if model is None:
                raise ValueError(
                    "diagnose needs the unconditional score, which label_dropout=0 left untrained"
                )
            tried = solvers(module.sampler, module.sampling_levels, reference.held_out[0].numel())
            labels = labels_like_data(module, reference, num)
            samples = {
                name: draw_samples(
                    trainer, module, num, sampler, f"Sampling ({name})", labels=labels
                )
                for name, sampler in tried.items()
            }
            if reference.exact is not None:
                exact, tried[EXACT] = reference.exact.to(module.device), copy(tried["the sampler"])
                samples[EXACT] = draw_samples(
                    trainer, module, num, tried[EXACT], f"Sampling ({EXACT})", lambda _: exact
                )
            about = about_model(trainer, module, samples["the sampler"])
            found = on_first_rank(
                trainer, partial(diagnose, model, samples, tried, kind, reference, about)
            )
        if found is not None:
            report, pictures = found
            report.write(self.directory, name="diagnosis")
            write_pictures(trainer, lambda: pictures, self.directory / "pictures")
            report.print(self.directory)
            Console().print(report.about["verdict"])

"""What the callbacks that draw samples share."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from rich.progress import track
from torch import Tensor, nn
from torchmetrics import CatMetric

from ncsn import plots
from ncsn.evaluation import Model, Reference
from ncsn.evaluation.kinds import Pictures
from ncsn.levels import ScoreFunction
from ncsn.random import global_seed
from ncsn.sampling import Monitor, Sampler

if TYPE_CHECKING:
    from ncsn.data import InMemoryDataModule
    from ncsn.modules import ScoreModule

VALUES_PER_BATCH = 2**18  # in a batch of samples, or of examples whose likelihood is computed
P = ParamSpec("P")
T = TypeVar("T")


def data_of(trainer: Trainer) -> "InMemoryDataModule":
    """The datamodule that the trainer was given."""
    return cast("InMemoryDataModule", trainer.datamodule)  # type: ignore[attr-defined]


def num_epochs(trainer: Trainer) -> int:
    """The number of epochs of a finite training, of which the last may be partial."""
    num_steps = trainer.estimated_stepping_batches  # which makes the loaders
    batches = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return math.ceil(num_steps / batches)


def in_precision(trainer: Trainer, function: Callable[P, T]) -> Callable[P, T]:
    """Have a function run under the trainer's precision; only calls of the network should."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with trainer.precision_plugin.forward_context():
            return function(*args, **kwargs)

    return call


def model_of(trainer: Trainer, module: "ScoreModule") -> Model | None:
    """What is evaluated of a module; ``None`` if its unconditional score was not trained."""
    if not module.has_marginal_score:
        return None
    return Model(in_precision(trainer, module.score), module.sampling_levels)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, after which each part of the module has the mode that it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def evaluating(pl_module: LightningModule) -> Iterator["ScoreModule"]:
    """The module in evaluation mode, without gradients."""
    with evaluation_mode(pl_module), torch.inference_mode():
        yield cast("ScoreModule", pl_module)


def on_first_rank(trainer: Trainer, work: Callable[[], T]) -> T | None:
    """What ``work`` returns on the first rank, ``None`` on others; all raise what it raises."""
    result: T | None = None
    error: Exception | None = None
    if trainer.is_global_zero:
        try:
            result = work()
        except Exception as failure:  # the other ranks wait, and must hear of it
            error = failure
    if (error := trainer.strategy.broadcast(error)) is not None:
        raise error
    return result


@contextmanager
def monitored(
    trainer: Trainer, num_steps: int, *monitors: Monitor, title: str = "Sampling"
) -> Iterator[Monitor]:
    """A monitor that calls others, with a progress bar of ``num_steps`` (0: none) on rank 0.

    After each step it calls the hook ``on_sampling_step(trainer)`` of every callback that has one,
    which may raise to stop the sampling.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    hooks = [each.on_sampling_step for each in callbacks if hasattr(each, "on_sampling_step")]
    hidden = not (num_steps and trainer.is_global_zero)
    bar = track(range(num_steps), title, disable=hidden)
    with closing(iter(bar)) as progress:  # type: ignore[type-var]

        def monitor(sigma: float, x: Tensor) -> None:
            next(progress, None)
            for hook in hooks:
                hook(trainer)
            for each in monitors:
                each(sigma, x)

        yield monitor
        next(progress, None)  # completes the bar


def draw_samples(
    trainer: Trainer,
    module: "ScoreModule",
    num: int,
    sampler: Sampler | None = None,
    title: str = "Sampling",
    modify: Callable[[ScoreFunction], ScoreFunction] | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Samples 0, ..., num - 1, drawn by all ranks together, on every rank.

    Args:
        trainer: The trainer.
        module: The model.
        num: Number of samples.
        sampler: By default, the model's.
        title: Of the progress bar.
        modify: Turns the model's score into another one.
        labels: The classes of the samples, shape ``(num,)``; by default, all classes in turn.

    Raises:
        ValueError: If there are fewer samples than ranks.
    """
    if num < trainer.world_size:
        raise ValueError(
            f"{num} samples cannot be shared among {trainer.world_size} processes: raise "
            "--num_samples, or lower trainer.devices"
        )
    sampler = sampler or module.sampler
    samples = CatMetric(nan_strategy="disable").to(module.device)
    batches = batches_of(trainer, module, num)
    num_steps = len(batches) * sampler.num_steps_on(module.noise_levels)
    draw = in_precision(trainer, module.draw)
    with monitored(trainer, num_steps, title=title) as monitor:
        for start, stop in batches:
            label = None if labels is None else labels[start:stop]
            x = draw(start, stop, label, sampler=sampler, monitor=monitor, modify=modify)
            samples.update(x)
    return samples.compute().view(num, *module.data_shape)


def labels_like_data(module: "ScoreModule", reference: Reference, num: int) -> Tensor | None:
    """Classes for samples that are compared with data: those of its first training examples.

    Classes in turn would differ from data whose classes are not equally frequent.
    """
    if not module.network.num_classes:
        return None
    rows = torch.arange(num) % len(reference.labels)
    return reference.labels[rows].to(module.device)


def batches_of(trainer: Trainer, module: "ScoreModule", num: int) -> list[tuple[int, int]]:
    """This rank's share of 0, ..., num - 1, in batches (start, stop)."""
    rank, size = trainer.global_rank, trainer.world_size
    first, last = rank * num // size, (rank + 1) * num // size
    step = max(1, VALUES_PER_BATCH // math.prod(module.data_shape))
    return [(start, min(start + step, last)) for start in range(first, last, step)]


def about_model(trainer: Trainer, module: "ScoreModule", samples: Tensor) -> dict[str, Any]:
    """What was evaluated, and how."""
    return {
        "checkpoint": str(trainer.ckpt_path),
        "model": type(module).__name__,
        "data": type(data_of(trainer)).__name__,
        "sampler": str(module.sampler),
        "num_evaluations": module.sampler.num_evaluations,
        "num_samples": len(samples),
        "seed": global_seed(),
        "time": datetime.now().isoformat(timespec="seconds"),
    }


def write_pictures(
    trainer: Trainer, draw: Callable[[], Pictures], directory: Path, suffix: str = ""
) -> None:
    """Draw pictures, write them as ``directory/{name}{suffix}``, and send them to the loggers.

    What cannot be drawn or written costs a warning and not the run.
    """
    pictures: Pictures = {}
    with plots.optional(f"pictures of step {trainer.global_step}"):
        pictures = draw()
    for name, picture in pictures.items():
        with plots.optional(f"picture {name}{suffix}"):
            _log_picture(trainer, name, plots.save(picture, directory / f"{name}{suffix}"))


def _log_picture(trainer: Trainer, name: str, path: Path) -> None:
    """Send a picture to W&B and to TensorBoard, with the step."""
    step = trainer.global_step
    caption = [f"{name}, step {step}"]
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and path.suffix == ".gif":
            files, options = [str(path)], {"format": ["gif"], "caption": caption}
            logger.log_video(f"pictures/{name}", files, step=step, **options)
        elif isinstance(logger, WandbLogger):
            logger.log_image(f"pictures/{name}", [str(path)], step=step, caption=caption)
        elif isinstance(logger, TensorBoardLogger):
            _add_file(logger.experiment, f"pictures/{name}", path, step)


def _add_file(writer: Any, tag: str, path: Path, step: int) -> None:
    """Give the file itself to TensorBoard, whose own functions cannot write an animation."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    with Image.open(path) as picture:
        width, height = picture.size
    size = {"width": width, "height": height, "colorspace": 3}
    image = Summary.Image(encoded_image_string=path.read_bytes(), **size)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

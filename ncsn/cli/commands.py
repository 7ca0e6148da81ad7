"""The commands: fit, validate, test, diagnose, predict, restore, export.

Each is a function whose parameters are its options, and whose docstring is their help.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from ncsn.callbacks import Diagnosis, SampleWriter, TestReport
from ncsn.callbacks.common import in_precision
from ncsn.callbacks.predictions import enough_for
from ncsn.cli.checkpoints import refuse_to_overwrite
from ncsn.cli.parser import CLI
from ncsn.cli.restore import draw_restorations, read_measured, write_restorations
from ncsn.config import config_of
from ncsn.evaluation.images import Images
from ncsn.modules import ScoreModule
from ncsn.modules.pretrained import WEIGHTS
from ncsn.modules.stored import (
    changed_settings,
    changed_split,
    check_same_data,
    check_same_model,
)
from ncsn.modules.stored_config import STATISTICS
from ncsn.random import global_seed
from ncsn.runtime import RunLogger, Stopped, load_checkpoint
from ncsn.runtime.checkpoints import checksum
from ncsn.runtime.runs import hardware
from ncsn.sampling import MMPS, LinearOperator, PosteriorScore, Sampler


def fit(cli: CLI) -> None:
    """Train a model; samples, losses and checkpoints go to lightning_logs/NAME/version_N."""
    checkpoint = _read_checkpoint(cli)
    if checkpoint is not None:
        check_same_model(checkpoint, cli.model.hparams)
        changed = changed_settings(checkpoint.get("config", {}), cli.stored_config())
        before, now = checkpoint.get("hardware"), hardware(cli.trainer)
        if before not in (None, now) and "trainer.devices" not in " ".join(changed):
            changed.append(f"{now} (was {before})")
        if changed:
            rank_zero_warn(
                f"resumed with {', '.join(changed)}: the result is not that of an uninterrupted "
                "training"
            )
    refuse_to_overwrite(cli)
    if cli.checkpoint is not None and cli.config.trainer.fast_dev_run:
        raise ValueError(
            "trainer.fast_dev_run tries the first batches of a training: leave --ckpt_path out"
        )
    if cli.run is not None:
        cli.continue_in(cli.run)
        step = checkpoint["global_step"] if checkpoint else 0
        what = f"resuming from step {step}" if checkpoint else "has saved nothing, starting again"
        rank_zero_info(f"{cli.run}: {what}")
        for logger in cli.trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.stop = step
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.checkpoint, weights_only=True)


def validate(cli: CLI) -> None:
    """Compute the loss on the validation data, level by level."""
    _check_held_out(cli)
    cli.trainer.validate(cli.model, cli.datamodule, cli.checkpoint, weights_only=True)


def test(
    cli: CLI,
    num_samples: int | None = None,
    num_likelihood_examples: int | None = None,
    inception: bool = False,
    classifier_accuracy: bool = False,
) -> None:
    """Evaluate a model: its loss, samples, likelihood, and its loss at each noise level.

    Prints a table, and writes evaluation.json, estimates.csv, levels.csv and pictures to the run's
    directory.

    Args:
        num_samples: Number of samples to draw, by default 5,000 points or 1,000 images;
            of images, no more than there are test images.
        num_likelihood_examples: Number of test examples whose log likelihood an NCSN computes, by
            default 1,000 points or 128 images; 0 for none.
        inception: Whether to compute Inception's FID as well, which needs its weights.
        classifier_accuracy: Whether to train a classifier on samples of a class-conditional
            model, and to test it on the data.
    """
    _check_least("num_samples", num_samples)
    _check_least("num_likelihood_examples", num_likelihood_examples, 0)
    for name, wanted in (("inception", inception), ("classifier_accuracy", classifier_accuracy)):
        if wanted and not isinstance(cli.datamodule.kind, Images):
            raise ValueError(f"--{name} is for images: leave it out")
    if classifier_accuracy and not cli.model.network.num_classes:
        raise ValueError("--classifier_accuracy is for class-conditional models: leave it out")
    _check_held_out(cli)
    report = TestReport(num_samples, num_likelihood_examples, inception, classifier_accuracy)
    _run_test(cli, report)


def diagnose(cli: CLI, num_samples: int | None = None) -> None:
    """Say what keeps samples from the data, the network or the solver.

    Draws the same samples with 4 times the steps, with a corrector, and with another solver;
    measures the loss, the curl and the divergence of the network's score at each noise level.
    Prints a table and a verdict, and writes diagnosis.json, estimates.csv, levels.csv and a
    picture to the run's directory.

    Args:
        num_samples: Number of samples of each solver, by default 5,000 points or 1,000 images;
            no more than there are test images.
    """
    _check_least("num_samples", num_samples)
    _check_held_out(cli)
    _run_test(cli, Diagnosis(num_samples))


def predict(
    cli: CLI,
    num_samples: int = 100,
    batch_size: int = 64,
    first_sample: int = 0,
    label: int | None = None,
    resume: Path | None = None,
    png: bool = False,
) -> None:
    """Draw samples and write them to samples.npz and samples.png in the run's directory.

    Sample number i depends on the weights, the sampler, --seed_everything and i alone: not on the
    batch size or on the number of processes.

    Args:
        num_samples: Number of samples to draw.
        batch_size: Samples that are drawn at a time, on each device; fewer if there are not
            enough for all devices.
        first_sample: Number of the first sample, so that several runs can share the work.
        label: Class of all samples, −1 for any; by default, a class-conditional model takes its
            classes in turn.
        resume: The directory of an interrupted run with the same settings: the samples in it are
            kept, and the rest goes there too.
        png: Whether to write each image as png/NUMBER.png as well.
    """
    for name, value in (("num_samples", num_samples), ("batch_size", batch_size)):
        _check_least(name, value)
    _check_least("first_sample", first_sample, 0)
    model, trainer, num_classes = cli.model, cli.trainer, cli.model.network.num_classes
    _check_label(label, model)
    if num_samples < trainer.world_size:
        raise ValueError(
            f"--num_samples {num_samples} cannot be shared among {trainer.world_size} processes"
        )
    limit = cli.config.trainer.limit_predict_batches  # 1.0 is all, 1 is one
    if cli.config.trainer.fast_dev_run or type(limit) is int or limit not in (None, 1.0):
        raise ValueError(
            "trainer.fast_dev_run and trainer.limit_predict_batches would leave out samples: give "
            "--num_samples instead"
        )
    _read_checkpoint(cli)
    _log_to_files_only(cli, resume)
    about = _about(cli, label) | {"first_sample": first_sample, "num_samples": num_samples}
    writer = SampleWriter(resume, about, model.data_shape, png)
    trainer.callbacks.append(writer)  # type: ignore[attr-defined]
    all_numbers = torch.arange(first_sample, first_sample + num_samples)
    numbers = writer.missing(all_numbers) if resume else all_numbers
    numbers = enough_for(trainer.world_size, numbers, all_numbers)
    # Lightning shards the batches among ranks, each of which needs one.
    ranks, num = trainer.world_size, len(numbers)
    batch_size = min(batch_size, math.ceil(num / ranks))
    if math.ceil(num / batch_size) < ranks:
        batch_size = num // ranks
    batches = _batches(numbers, batch_size, label, num_classes)
    loader = DataLoader(cast(Any, batches), batch_size=None)
    try:
        trainer.predict(
            model, loader, return_predictions=False, ckpt_path=cli.checkpoint, weights_only=True
        )
    except Stopped as stopped:
        if writer.has_parts(writer.directory):
            stopped.advice = f"; its samples are kept: resume with --resume {writer.directory}"
        raise


def restore(
    cli: CLI,
    input: Path,
    operator: Callable[[tuple[int, ...]], LinearOperator],
    noise: float,
    method: PosteriorScore | None = None,
    num_samples: int = 16,
    batch_size: int = 64,
    label: int | None = None,
    simulate: bool = False,
) -> None:
    """Draw what measurements y = A x + noise may come from: fill in, deblur, enlarge, reconstruct.

    Writes restored.npz (samples, mean, std, measurement), restored.json and restored.png to a run
    directory. The sampler is --model.sampler.

    Args:
        input: What was measured: an .npz or .npy, a PNG, or a directory of PNGs. Where A picks
            pixels, images whose other pixels do not matter.
        operator: A, a class of ncsn.sampling, such as HiddenBox, RandomMask, Blur, Downsampling,
            SubsampledFourier or RandomProjection, or one of your own.
        noise: Standard deviation of the noise in y, where images are in [-1, 1].
        method: How the posterior is approximated, a class of ncsn.sampling: by default, moment
            matching (MMPS).
        num_samples: Number of samples of each measurement.
        batch_size: Samples that are drawn at a time.
        label: Class of what was measured, if the model knows classes; by default, any.
        simulate: Whether the input is the data itself, to be measured here, with noise.
    """
    for name, value in (("num_samples", num_samples), ("batch_size", batch_size)):
        _check_least(name, value)
    model, method = cli.model, method or MMPS()
    label = -1 if label is None else label
    _check_label(label, model)
    if model.sampler.denoise and not method.denoises:
        raise ValueError(
            f"{type(method).__name__} with steps of fixed length cannot end with a Tweedie step: "
            "add --model.sampler.denoise false"
        )
    checkpoint = cast(dict[str, Any], _read_checkpoint(cli))
    model.load_state_dict(checkpoint["state_dict"])
    model.eval().to(cli.trainer.strategy.root_device)
    cli.trainer.precision_plugin.convert_module(model)
    model.score = in_precision(cli.trainer, model.score)
    a = operator(model.data_shape)
    measured = read_measured(input, a, noise, simulate)
    samples = draw_restorations(model, measured, method, num_samples, batch_size, label)
    about = _about(cli, label) | {
        "input": str(input),
        "simulate": simulate,
        "operator": config_of(a),
        "noise": noise,
        "method": config_of(method),
    }
    loggers = [each for each in cli.trainer.loggers if isinstance(each, RunLogger)]
    logger = (loggers or [RunLogger("lightning_logs", name="restore")])[0]
    logger.claim()
    write_restorations(Path(logger.log_dir), measured, samples, about)


def export(
    cli: CLI, output: Path, evaluation: Path | None = None, license: str = "not stated"
) -> None:
    """Write the model of a checkpoint to a folder: its weights, its config and a model card.

    Args:
        output: The folder, which --ckpt_path and from_pretrained take.
        evaluation: The directory of a test, whose figures the card shows.
        license: The licence of the weights, for the card.
    """
    checkpoint = cast(dict[str, Any], _read_checkpoint(cli))
    if output.is_dir() and any(output.iterdir()) and not (output / WEIGHTS).is_file():
        raise ValueError(f"--output {output} has other files in it: give a new folder")
    cli.model.load_state_dict(checkpoint["state_dict"])
    data = cli.stored_config()["data"]
    if data["class_path"] == STATISTICS:  # of the training, not what stands in for it here
        data = checkpoint.get("config", {}).get("data")
    cli.model.save_pretrained(output, data=data, evaluation=evaluation, license=license)
    rank_zero_info(f"{type(cli.model).__name__} is in {output}")


COMMANDS = {
    each.__name__: each for each in (fit, validate, test, diagnose, predict, restore, export)
}


def _check_held_out(cli: CLI) -> None:
    """Check that the checkpoint, if one was given, fits the data; warn of another split of it."""
    if checkpoint := _read_checkpoint(cli):
        changed = ", ".join(changed_split(checkpoint.get("config", {}), cli.stored_config()))
        if changed:
            rank_zero_warn(
                f"evaluated with {changed}: what is held out now may have been trained on"
            )


def _run_test(cli: CLI, report: Callback) -> None:
    """Run the test loop, with a callback that reports at its end, into a run's directory."""
    if not cli.trainer.loggers or cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
        cli.log_to(RunLogger("lightning_logs", name=cli.config.name), new=True)
    cli.trainer.callbacks.append(report)  # type: ignore[attr-defined]
    cli.trainer.test(cli.model, cli.datamodule, cli.checkpoint, verbose=False, weights_only=True)


def _read_checkpoint(cli: CLI) -> dict[str, Any] | None:
    """The checkpoint, if one was given, after a check that it fits the data."""
    if cli.checkpoint is None:
        return None
    checkpoint = load_checkpoint(cli.checkpoint)
    check_same_data(checkpoint, cli.model)
    return checkpoint


def _check_least(name: str, value: int | None, least: int = 1) -> None:
    if value is not None and value < least:
        raise ValueError(f"--{name} must be at least {least}, got {value}")


def _batches(
    numbers: torch.Tensor, batch_size: int, label: int | None, num_classes: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of consecutive sample numbers, each with the classes of its samples."""
    gaps = (numbers.diff() != 1).nonzero().flatten() + 1
    batches = [part for run in numbers.tensor_split(gaps) for part in run.split(batch_size)]
    if label is not None:
        return [(part, torch.full_like(part, label)) for part in batches]
    return [(part, part % max(num_classes, 1)) for part in batches]


def _about(cli: CLI, label: int | None) -> dict[str, Any]:
    """What samples depend on, in addition to their numbers."""
    return {
        "checkpoint": checksum(cast(Path, cli.checkpoint)),
        "seed": global_seed(),
        "sampler": describe_sampler(cli.model.sampler),
        "guidance_scale": cli.model.guidance_scale,
        "label": label,
    }


def describe_sampler(sampler: Sampler) -> Any:
    """A sampler as plain data, which is the same in another process."""
    with suppress(ValueError):
        return config_of(sampler)
    return str(sampler)


def _check_label(label: int | None, model: ScoreModule) -> None:
    num_classes = model.network.num_classes
    if label == -1 and not model.has_marginal_score:
        raise ValueError(
            "--label -1, for any, needs the unconditional score, which label_dropout=0 leaves "
            f"untrained: give one of 0 to {num_classes - 1}"
        )
    if label is not None and not -1 <= label < num_classes:
        classes = f"has the labels 0 to {num_classes - 1}, and -1 for any"
        classes = classes if num_classes else "is not class-conditional"
        raise ValueError(f"--label {label}: the model {classes}")


def _log_to_files_only(cli: CLI, resume: Path | None) -> None:
    """Leave out W&B, since there are no metrics; a CSVLogger gives the run its directory."""
    if resume is not None:
        if not SampleWriter.has_parts(resume):
            raise ValueError(f"--resume {resume} is not the directory of an interrupted predict")
        csv = RunLogger(resume.parent, name="", version=resume.name)
        return cli.log_to(csv, new=False)
    loggers = [each for each in cli.trainer.loggers if not isinstance(each, WandbLogger)]
    cli.log_to(*(loggers or [RunLogger("lightning_logs", name="predict")]), new=True)

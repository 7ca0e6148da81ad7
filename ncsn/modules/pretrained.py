"""A model as a folder: weights in ``model.safetensors``, ``config.json``, and a model card.

Reading one loads tensors and plain data, and imports nothing but this project's and torch's.
"""

import json
from argparse import ArgumentError
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import lightning
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ncsn.evaluation import Report
from ncsn.evaluation.files import replacing
from ncsn.modules.stored import check_class_paths
from ncsn.modules.stored_config import Module, model_from, model_to_store, module_from

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
SHIPPED = Path(__file__).parents[1] / "pretrained"
PRETRAINED = sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))
"""Models that come with the package, each a folder of ``SHIPPED``."""


def write_pretrained(
    module: Any,
    model: Mapping[str, Any],
    directory: str | Path,
    data: Mapping[str, Any] | None = None,
    evaluation: str | Path | None = None,
    license: str = "not stated",
) -> None:
    """Write the folder of a module.

    Args:
        module: The module.
        model: Its class path and arguments.
        directory: The folder, made if it is not there.
        data: Class path and arguments of the data that it was trained on.
        evaluation: The directory of a test, whose figures the model card shows.
        license: The licence of the weights.

    Raises:
        OSError: If it cannot be written.
        ValueError: If there is no evaluation where one is said to be, or one of another model.
    """
    directory = Path(directory)
    report = None if evaluation is None else _read_evaluation(Path(evaluation), module, data)
    config = json.dumps({"model": model, "data": data}, indent=2) + "\n"
    weights = {name: each.contiguous() for name, each in module.state_dict().items()}
    card = _card(module, model, data, report, license)
    for name, content in ((WEIGHTS, save(weights)), (CONFIG, config.encode()), (CARD, card)):
        with replacing(directory / name) as file:
            file.write(content)


def _read_evaluation(directory: Path, module: Any, data: Mapping[str, Any] | None) -> Report:
    """The test of this module on its data.

    Raises:
        ValueError: If there is none, or it is of another model or other data.
    """
    if not (directory / "evaluation.json").is_file():
        raise ValueError(f"--evaluation {directory} is not the directory of a test")
    report = Report.read(directory)
    about, own = report.about, {"model": type(module).__name__}
    if data is not None:
        own["data"] = data["class_path"].rpartition(".")[2]
    if "samples" in about or any(about.get(name, own[name]) != own[name] for name in own):
        tested = about.get("model", "samples from a file"), about.get("data")
        raise ValueError(
            f"--evaluation {directory} is of {' on '.join(map(str, tested))}, and the model is "
            f"{' on '.join(own.values())}"
        )
    return report


def _card(
    module: Any,
    model: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    report: Report | None,
    license: str,
) -> bytes:
    """The model card: what the model is, how good, and how to use it."""
    levels, network = module.noise_levels.tolist(), type(module.network).__name__
    num = sum(each.numel() for each in module.network.parameters())
    name = type(module).__name__
    shape = "×".join(map(str, module.data_shape))
    trained_on = data["class_path"] if data else "not stated"
    python_use = (
        f"```python\nfrom ncsn.modules import {name}\n\n"
        f'samples = {name}.from_pretrained("FOLDER").draw(0, 16)\n```\n'
    )
    lines = [
        f"# {name}, trained on {trained_on.rpartition('.')[2].removesuffix('DataModule')}\n",
        f"- Data: {trained_on}, shape {shape}, mean {module.data_mean:.4g}, "
        f"standard deviation {module.data_std:.4g}",
        f"- Model: {model['class_path']} with {network}, {num:,} parameters",
        f"- Noise levels: {len(levels)}, from {levels[0]:.4g} to {levels[-1]:.4g}",
        f"- Sampler: {module.sampler}",
        f"- Licence: {license}\n",
        "## Use\n",
        "```sh\npython -m ncsn predict --ckpt_path FOLDER\n```\n",
        python_use if model["class_path"].startswith("ncsn.") else "",
        "## Figures\n",
    ]
    if report is None:
        lines.append("None measured.")
    else:
        about = report.about
        lines += [
            f"{about.get('num_samples')} samples, {about.get('sampler')}. A value with one "
            "standard error; floor: as many fresh examples in place of the samples.\n",
            "| metric | value | floor | better |\n|---|---|---|---|",
        ]
        rows = report.estimates.values()
        lines += [
            f"| {row.title} | {row.formatted} | {row.formatted_floor} | {row.better} |"
            for row in rows
        ]
    return ("\n".join(lines) + "\n").encode()


def read_pretrained(directory: str | Path) -> dict[str, Any]:
    """The content of a folder, in the form of a checkpoint with weights alone.

    Raises:
        ValueError: If it is not such a folder, or damaged.
    """
    directory = Path(directory)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            run = (directory / "checkpoints").is_dir()
            advice = f"; give a checkpoint of this run, in {directory}/checkpoints" * run
            raise ValueError(f"{directory} is no folder of a model: it has no {name}{advice}")
    try:
        config = json.loads((directory / CONFIG).read_bytes())
        model, data = config["model"], config.get("data")
        hparams = model_to_store(str(model["class_path"]), {**model["init_args"]})
        state = load_file(directory / WEIGHTS)
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(f"{directory} is damaged ({error}): save or download it again") from error
    return {
        "state_dict": state,
        "hyper_parameters": hparams,
        "config": {"name": directory.absolute().name} | ({"data": data} if data else {}),
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
    }


def load_pretrained(cls: type[Module], directory: str | Path, trust: Collection[str]) -> Module:
    """The module of a folder, of class ``cls``, in evaluation mode.

    Args:
        cls: What it has to be.
        directory: The folder.
        trust: Class paths and modules whose classes may be imported, too.

    Raises:
        ValueError: If the folder is damaged, names what is not trusted, or is of another class.
    """
    checkpoint = read_pretrained(directory)
    given = [trust] if isinstance(trust, str) else list(trust)
    given += [f"{each}.any" for each in given]
    check_class_paths(model_from(checkpoint), given, "name it or its module in trust=")
    try:
        module = module_from(cls, checkpoint)
        module.load_state_dict(checkpoint["state_dict"])
    except (ArgumentError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(each.strip() for each in str(error).splitlines()[:2])
        raise ValueError(f"{directory} is no {cls.__name__}: {reason}") from error
    return module.eval()

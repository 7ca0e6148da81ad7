"""Compares samples from any program with data: ``python -m ncsn evaluate``."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from ncsn import plots
from ncsn.cli.parser import Parser
from ncsn.data import InMemoryDataModule
from ncsn.evaluation.samples import evaluate_samples
from ncsn.runtime.runs import RunLogger


class DataParser(Parser):
    """Takes the section ``data`` of a config, and leaves the rest of it out."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parse the text of a config."""
        with suppress(yaml.YAMLError):  # which is shown by what follows
            config = yaml.safe_load(content)
            if isinstance(config, dict):
                content = yaml.safe_dump({key: config[key] for key in {"data"} & config.keys()})
        return super().parse_string(content, *args, **kwargs)


def evaluate(args: list[str]) -> None:
    """Compare samples from any program with data: distances with floors and standard errors."""
    text = str(evaluate.__doc__)
    parser = DataParser(prog="ncsn evaluate", description=text, allow_abbrev=False)
    text = "uint8 images or points in an .npz or .npy, or a directory of PNGs"
    parser.add_argument("samples", type=Path, help=text)
    parser.add_argument("--config", action="config", help="Config with the section data")
    parser.add_lightning_class_args(InMemoryDataModule, "data", subclass_mode=True, required=False)
    parser.add_argument("--features", type=Path | None, help="File that ncsn features fit wrote")
    parser.add_argument("--output", type=Path | None, help="Directory of the results")
    config = parser.parse_args(args)
    if config.data is None:
        raise ValueError(
            "evaluate needs data to compare with: give --config CONFIG or --data CLASS"
        )
    data: InMemoryDataModule = parser.instantiate_classes(config).data
    data.prepare_data()
    data.setup("test")
    report, pictures = evaluate_samples(
        config.samples, type(data).__name__, data.reference("test"), config.features
    )
    logger = RunLogger("lightning_logs", name="evaluation")
    if config.output is None:
        logger.claim()
    directory = config.output or Path(logger.log_dir)
    report.write(directory)
    for name, picture in pictures.items():
        with plots.optional(f"picture {name}"):
            plots.save(picture, directory / "pictures" / name)
    report.print(directory)

"""Compares samples from any program with data: ``python -m ncsn evaluate``."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from ncsn.cli.parser import Parser
from ncsn.data import InMemoryDataModule
from ncsn.evaluation.samples import evaluate_samples
from ncsn.runtime import RunLogger


class DataParser(Parser):
    """Takes the section ``data`` of a config, and leaves the rest of it out."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parse the text of a config."""
        self.refuse_repeated(content)
        with suppress(yaml.YAMLError):  # which is shown by what follows
            if isinstance(config := yaml.safe_load(content), dict):
                content = yaml.safe_dump({key: config[key] for key in {"data"} & config.keys()})
        return super().parse_string(content, *args, **kwargs)


def run(args: list[str]) -> None:
    """Compare samples from any program with data: distances with floors and standard errors."""
    parser = DataParser(prog="ncsn evaluate", description=f"{run.__doc__}", allow_abbrev=False)
    text = "uint8 images or points in an .npz or .npy, or a directory of PNGs"
    parser.add_argument("samples", type=Path, help=text)
    parser.add_argument("--config", action="config", help="A config with data")
    parser.add_lightning_class_args(InMemoryDataModule, "data", subclass_mode=True, required=False)
    parser.add_argument("--features", type=Path | None, help="A file that ncsn features fit wrote")
    text = "Whether to train a classifier on the labels of the samples, and test it on the data"
    parser.add_argument("--classifier_accuracy", type=bool, default=False, help=text)
    parser.add_argument("--name", default="evaluation", help="Name of the run in lightning_logs")
    config = parser.parse_args(args)
    if config.data is None:
        raise ValueError("evaluate compares with data: give --config CONFIG or --data CLASS")
    data: InMemoryDataModule = parser.instantiate_classes(config).data
    data.feature_network = config.features or data.feature_network
    data.prepare_data()
    reference, name = data.reference("test"), type(data).__name__
    report, pictures = evaluate_samples(
        config.samples, name, reference, config.classifier_accuracy
    )
    logger = RunLogger("lightning_logs", name=config.name)
    logger.claim()
    report.write(Path(logger.log_dir), pictures)
    report.print(Path(logger.log_dir))

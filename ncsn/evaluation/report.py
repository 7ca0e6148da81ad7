"""The result of an evaluation: its files and its table."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ncsn import plots
from ncsn.evaluation.estimate import Estimates
from ncsn.evaluation.files import replacing, write_csv

NOTES = (
    "compared_with",
    "features",
    "training_data",
    "likelihood",
    "likelihood_solver_error",
    "rule",
)  # what the table says in addition to the sampler

REQUIRED = {"time"}  # in ``about``


@dataclass
class Report:
    """The result of an evaluation.

    Attributes:
        about: What was evaluated, and how: checkpoint, sampler, number of samples, seed, ...; of
            samples from elsewhere, their file or directory as ``samples``.
        estimates: Estimates by name.
        levels: One row per noise level; see :func:`ncsn.evaluation.metrics.losses_per_level`.
    """

    about: dict[str, Any]
    estimates: Estimates = field(default_factory=dict)
    levels: list[dict[str, float]] = field(default_factory=list)

    def write(
        self,
        directory: Path,
        pictures: dict[str, plots.Picture] | None = None,
        name: str = "evaluation",
    ) -> None:
        """Write ``{name}.json`` with all numbers, ``estimates.csv`` and ``levels.csv``.

        ``pictures``, by name, become ``pictures/NAME.png``.
        """
        with replacing(directory / f"{name}.json") as file:
            file.write(json.dumps(asdict(self), indent=2).encode() + b"\n")
        estimates = [{"name": name, **asdict(each)} for name, each in self.estimates.items()]
        for name, rows in (("estimates", estimates), ("levels", self.levels)):
            if rows:
                write_csv(directory / f"{name}.csv", list(rows[0]), rows)
        for name, picture in (pictures or {}).items():
            with plots.optional(f"picture {name}"):
                plots.save(picture, directory / "pictures" / name)

    @classmethod
    def read(cls, directory: Path) -> "Report":
        """Read ``evaluation.json``.

        Raises:
            ValueError: If it is damaged.
        """
        path = directory / "evaluation.json"
        try:
            report = TypeAdapter(cls).validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            reason = ".".join(map(str, first["loc"])) + ": " + first["msg"]
            raise ValueError(f"{path} is damaged ({reason}): run the test again") from error
        if missing := REQUIRED - report.about.keys():
            raise ValueError(f"{path} is damaged: about has no {min(missing)}: run the test again")
        return report

    def print(self, directory: Path) -> None:
        """Print the estimates as a table; ``directory`` is where the report was written."""
        about = self.about
        caption = [
            "± one standard error; floor: as many fresh examples in place of the samples",
            *(f"{name.replace('_', ' ')}: {about[name]}" for name in NOTES if name in about),
            f"with {'levels and ' * bool(self.levels)}pictures in {directory}",
        ]
        if "checkpoint" in about:
            source = f"samples of {about['checkpoint']}\n{about['sampler']}"
        else:
            num = f"of {about['num_read']:,} " * (about["num_read"] > about["num_samples"])
            source = f"{num}samples in {about['samples']}\n{about['data']}"
        title = f"{about['num_samples']:,} {source}"
        headings = "metric", "value", "floor", "better"
        table = Table(*headings, title=escape(title), caption=escape("\n".join(caption)))
        for each in self.estimates.values():
            table.add_row(each.title, each.formatted, each.formatted_floor, each.better)
        Console().print(table)

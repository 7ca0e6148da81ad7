"""The result of an evaluation: its files and its table."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ncsn.evaluation.estimate import Estimate, Estimates

NOTES = ("features", "likelihood_solver_error")  # what the table says in addition to the sampler


@dataclass
class Report:
    """The result of an evaluation.

    Attributes:
        about: What was evaluated, and how: checkpoint, sampler, number of samples, seed, ...
        estimates: Estimates by name.
        levels: One row per noise level; see :func:`ncsn.evaluation.metrics.losses_per_level`.
    """

    about: dict[str, Any]
    estimates: Estimates = field(default_factory=dict)
    levels: list[dict[str, float]] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        """Write ``evaluation.json`` with everything, ``estimates.csv`` and ``levels.csv``."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "evaluation.json").write_text(json.dumps(asdict(self), indent=2) + "\n")
        estimates = [{"name": name, **asdict(each)} for name, each in self.estimates.items()]
        for name, rows in (("estimates", estimates), ("levels", self.levels)):
            if rows:
                write_csv(directory / f"{name}.csv", list(rows[0]), rows)

    @classmethod
    def read(cls, directory: Path) -> "Report":
        """Read ``evaluation.json``.

        Raises:
            ValueError: If it is damaged.
        """
        path = directory / "evaluation.json"
        try:
            content = json.loads(path.read_text())
            estimates = {name: Estimate(**each) for name, each in content["estimates"].items()}
            return cls(content["about"], estimates, content["levels"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}): run the test again") from error

    def print(self, directory: Path) -> None:
        """Print the estimates as a table; ``directory`` is where the report was written."""
        about = self.about
        caption = [
            "± one standard error; floor: as many fresh examples in place of the samples",
            *(f"{name.replace('_', ' ')}: {about[name]}" for name in NOTES if name in about),
            f"with levels and pictures in {directory}",
        ]
        title = f"{about['num_samples']:,} samples of {about['checkpoint']}\n{about['sampler']}"
        headings = "metric", "value", "floor", "better"
        table = Table(*headings, title=title, caption="\n".join(caption))
        for each in self.estimates.values():
            table.add_row(each.title, each.formatted, each.formatted_floor, each.better)
        Console().print(table)


def write_csv(path: Path, names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as a table with the columns ``names``."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)

"""Several runs side by side: ``python -m ncsn compare RUN RUN ...``."""

import csv
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from ncsn import plots
from ncsn.errors import UserError
from ncsn.evaluation import Report, Score

__all__ = ["Run", "compare"]

Curve = list[tuple[int, float]]


class Run(NamedTuple):
    """What a run has left on disk.

    Attributes:
        name: The end of its path.
        curves: Metrics over epochs, by name.
        report: The result of its ``test``, if there is one.
    """

    name: str
    curves: dict[str, Curve]
    report: Report | None


def read_run(directory: Path) -> Run:
    """Read the directory of a fit or of a test.

    A fit comes with the latest test of one of its checkpoints among the runs beside it, and a test
    with the curves of the fit that wrote its checkpoint.

    Raises:
        UserError: If the directory is not that of a run.
    """
    report = _report_in(directory)
    trained_in = directory
    if report is not None:
        trained_in = Path(report.about["checkpoint"]).resolve().parent.parent
    curves = _read_curves(trained_in / "metrics.csv")
    if report is None:
        beside = filter(None, map(_report_in, directory.resolve().parent.iterdir()))
        tests = [
            each
            for each in beside
            if Path(each.about["checkpoint"]).resolve().is_relative_to(directory.resolve())
        ]
        report = max(tests, key=lambda each: each.about["time"], default=None)
    if report is None and not curves:
        raise UserError(
            f"{directory} is not a run: it has no metrics.csv of a fit and no evaluation.json of "
            "a test"
        )
    return Run("/".join(directory.resolve().parts[-2:]), curves, report)


def compare(runs: list[Path], output: Path) -> None:
    """Print the scores of runs as one table, and draw their curves in one picture.

    Args:
        runs: Directories of fits or of tests.
        output: Where ``comparison.csv`` and ``comparison.png`` are written.

    Raises:
        UserError: If a directory is not that of a run.
    """
    found = [read_run(directory) for directory in runs]
    output.mkdir(parents=True, exist_ok=True)
    reports = {run.name: run.report for run in found if run.report is not None}
    names = list(dict.fromkeys(name for report in reports.values() for name in report.scores))
    table = Table(title="value ± standard error", caption=f"Picture: {output / 'comparison.png'}")
    for heading in ("score", *(run.name for run in found), "floor", "better"):
        table.add_column(heading)
    rows = []
    for name in names:
        scores = [run.report.scores.get(name) if run.report else None for run in found]
        known = next(score for score in scores if score)
        cells = [score.formatted if score else "-" for score in scores]
        table.add_row(known.title, *cells, known.formatted_floor, known.better)
        rows += [
            {"run": run.name, "name": name, **vars(score)}
            for run, score in zip(found, scores, strict=True)
            if score
        ]
    with (output / "comparison.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["run", "name", *Score.__dataclass_fields__])
        writer.writeheader()
        writer.writerows(rows)
    curves: dict[str, dict[str, Curve]] = defaultdict(dict)
    for run in found:
        for name, curve in run.curves.items():
            curves[name][run.name] = curve
    levels = {name: report.levels for name, report in reports.items() if report.levels}
    plots.plot_comparison(curves, levels).savefig(output / "comparison.png")
    Console().print(table)
    for run in found:
        if run.report is None:
            Console().print(f"{run.name} was not evaluated: python -m ncsn test --ckpt_path ...")


def _report_in(directory: Path) -> Report | None:
    return Report.read(directory) if (directory / "evaluation.json").is_file() else None


def _read_curves(path: Path) -> dict[str, Curve]:
    """The loss, and the distance of the samples to the data, over epochs."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    curves = {
        name: [(int(row["epoch"]) + 1, float(row[name])) for row in rows if row[name]]
        for name in (rows[0] if rows else ())
        if name in ("val/loss_per_dim", "val/sliced_wasserstein")
        or (name.startswith("val/") and "_fd_" in name)
    }
    return {name: curve for name, curve in curves.items() if curve}

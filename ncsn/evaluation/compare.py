"""Several runs side by side: ``python -m ncsn compare RUN RUN ...``."""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ncsn import plots
from ncsn.evaluation.estimate import Estimate
from ncsn.evaluation.files import read_metrics, write_csv
from ncsn.evaluation.report import Report

Curve = list[tuple[int, float]]
BETTER = {"lower": "↓", "higher": "↑", "floor": "≈"}  # "floor": near it


class Run(NamedTuple):
    """What a run has written: metrics over epochs, by name, and the result of its ``test``."""

    name: str
    curves: dict[str, Curve]
    report: Report | None


def read_run(directory: Path, name: str) -> Run:
    """Read the directory of a fit or of a test, which is called ``name``.

    A fit comes with the latest test of one of its checkpoints in a neighbouring directory, and a
    test with the curves of the fit that wrote its checkpoint.

    Raises:
        ValueError: If the directory is not that of a run.
    """
    root, report = directory.resolve(), _report_in(directory)
    checkpoint = _checkpoint(report) if report else None
    metrics = (checkpoint.parent.parent if checkpoint else directory) / "metrics.csv"
    curves = _read_curves(metrics)
    if report is None:
        report = max(_tests_of(root), key=lambda each: each.about["time"], default=None)
    if report is None and not metrics.is_file():
        raise ValueError(
            f"{directory} is not a run: it has no metrics.csv of a fit and no evaluation.json of "
            "a test"
        )
    if report is None and not curves:
        raise ValueError(f"{metrics} has no validation, and {directory} was not tested")
    return Run(name, curves, report)


def compare(runs: list[Path], output: Path) -> None:
    """Print the estimates of runs as one table, and draw their curves in one picture.

    Args:
        runs: Directories of fits or of tests.
        output: Where ``comparison.csv`` and ``comparison.png`` are written.

    Raises:
        ValueError: If a directory is not that of a run.
    """
    names = distinct_names(runs)
    found = [read_run(directory, name) for directory, name in names.items()]
    output.mkdir(parents=True, exist_ok=True)
    reports = {run.name: run.report for run in found if run.report is not None}
    table, rows = _tabulate(found)
    columns = ["run", "name", *Estimate.__dataclass_fields__]
    write_csv(output / "comparison.csv", columns, rows)
    curves: dict[str, dict[str, Curve]] = defaultdict(dict)
    for run in found:
        for name, curve in run.curves.items():
            curves[name][run.name] = curve
    levels = {name: report.levels for name, report in reports.items() if report.levels}
    if curves or levels:  # none of samples from elsewhere
        picture = output / "comparison.png"
        plots.plot_comparison(curves, levels).savefig(picture)
        table.caption = f"Picture: {escape(str(picture))}"
    Console().print(table)
    Console().print("Better: " + ", ".join(f"{sign} {each}" for each, sign in BETTER.items()))
    for run in found:
        if run.report is None:
            Console().print(
                f"{escape(run.name)} was not evaluated: python -m ncsn test --ckpt_path ..."
            )


def _tabulate(runs: list[Run]) -> tuple[Table, list[dict[str, Any]]]:
    """The estimates of runs as a table to print, and as rows of a CSV."""
    table = Table(title="value ± standard error", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("metric", min_width=16, overflow="fold")
    for heading in (*(run.name for run in runs), "floor"):
        *path, version = heading.split("/")
        parts = [*(f"{part}/" for part in path), version]
        table.add_column(escape("\n".join(parts)), overflow="fold")
    rows = []
    for name in dict.fromkeys(key for run in runs if run.report for key in run.report.estimates):
        estimates = [run.report.estimates.get(name) if run.report else None for run in runs]
        known = [each for each in estimates if each]
        cells = [each.formatted if each else "-" for each in estimates]
        floors = dict.fromkeys(each.formatted_floor for each in known)  # by number of samples
        title = f"{BETTER[known[0].better]} {known[0].title}"
        table.add_row(title, *cells, " / ".join(floors))
        rows += [
            {"run": run.name, "name": name, **vars(each)}
            for run, each in zip(runs, estimates, strict=True)
            if each
        ]
    return table, rows


def distinct_names(runs: list[Path]) -> dict[Path, str]:
    """Names of directories, each once: the last parts of their paths, as many as it takes."""
    paths = list(dict.fromkeys(run.resolve() for run in runs))
    for num in range(2, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-num:]) for path in paths]
        if len(set(names)) == len(paths):
            break
    return dict(zip(paths, names, strict=True))


def _tests_of(root: Path) -> Iterator[Report]:
    """The tests of a fit's checkpoints, in the directories beside it."""
    for directory in root.parent.iterdir():
        try:
            report = _report_in(directory)
            checkpoint = _checkpoint(report) if report else None
            if report and checkpoint and checkpoint.is_relative_to(root):
                yield report
        except ValueError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)


def _checkpoint(report: Report) -> Path | None:
    """What was tested; None for samples from elsewhere."""
    path = report.about.get("checkpoint")
    return Path(path).resolve() if path else None


def _report_in(directory: Path) -> Report | None:
    return Report.read(directory) if (directory / "evaluation.json").is_file() else None


def _read_curves(path: Path) -> dict[str, Curve]:
    """The loss, and the distance of the samples to the data, over epochs."""
    rows = [row for row in read_metrics(path) if "epoch" in row]
    curves = {
        name: [
            (int(row["epoch"]) + 1, float(row[name]))
            for row in rows
            if row[name] and row["epoch"].isdecimal()
        ]
        for name in (rows[0] if rows else ())
        if name == "val/loss_per_dim"
        or (name.startswith("val/") and ("_fd_" in name or name.endswith("sliced_wasserstein")))
    }
    return {name: curve for name, curve in curves.items() if curve}

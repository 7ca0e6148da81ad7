r"""How long until something happens: a first line, help, the first step, the whole moons run.

python tests/benchmarks/startup.py

The imports tell what of it is torch's, Lightning's and our own: each includes the one before.
"""

import os
import pty
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lightning.pytorch as pl
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import Callback
from shared import ROOT, config_path, print_table

FIT = ("-m", "ncsn", "fit", f"--config={config_path('moons')}")
LIGHTNING = "import lightning.pytorch.cli"
IMPORTS = ("import torch", LIGHTNING, "import ncsn.cli.parser, ncsn.cli.commands")
FIRST_LINE = "first line of python -m ncsn fit, at a terminal"
COMMANDS = {
    **{f"python -c '{each}'": ("-c", each) for each in IMPORTS},
    "python -m ncsn --help": ("-m", "ncsn", "--help"),
    "python -m ncsn fit --help": ("-m", "ncsn", "fit", "--help"),
    "first step of configs/moons.yaml": (*FIT, "--trainer.callbacks+=startup.FirstStep"),
}


class FirstStep(Callback):
    """Ends the process after the first step."""

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Leave at once."""
        os._exit(0)


def environment() -> dict[str, str]:
    """Variables of a process that imports this package and these benchmarks."""
    path = f"{ROOT}:{Path(__file__).parent}"
    return {"WANDB_MODE": "disabled", **os.environ, "PYTHONPATH": path}


def first_line() -> float:
    """Seconds until a process writes something to its terminal."""
    ours, theirs = pty.openpty()
    start = time.perf_counter()
    command = [sys.executable, "-m", "ncsn", "fit"]
    with subprocess.Popen(command, env=environment(), stderr=theirs) as process:
        os.close(theirs)  # or the reading would not end with a process that writes nothing
        os.read(ours, 1)
        passed = time.perf_counter() - start
        process.kill()
    os.close(ours)
    return passed


def run(*args: str) -> float:
    """Seconds of a process."""
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        command = [sys.executable, *args]
        subprocess.run(command, cwd=directory, env=environment(), capture_output=True, check=True)
        return time.perf_counter() - start


def measure(rounds: int = 5, whole: bool = True) -> None:
    """Print a table in Markdown.

    Args:
        rounds: How often each command is run, in turns; the shortest time counts.
        whole: Whether to time the whole moons run as well.
    """
    best = dict.fromkeys((FIRST_LINE, *COMMANDS), float("inf"))
    for _ in range(rounds):
        best[FIRST_LINE] = min(best[FIRST_LINE], first_line())
        for name, args in COMMANDS.items():
            best[name] = min(best[name], run(*args))
    if whole:
        best["100 epochs of configs/moons.yaml, with pictures"] = run(*FIT)
    lightning = best[f"python -c '{LIGHTNING}'"]
    rows = [(name, f"{value:.1f}", f"{value / lightning:.2f}") for name, value in best.items()]
    print_table(("command", "seconds", "times Lightning's import"), rows)


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)

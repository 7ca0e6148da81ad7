r"""How long until something happens: help, the first step of training, the whole moons run.

python tests/benchmarks/startup.py
"""

import os
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
COMMANDS = {
    "python -c 'import lightning.pytorch.cli'": ("-c", "import lightning.pytorch.cli"),
    "python -m ncsn --help": ("-m", "ncsn", "--help"),
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


def run(*args: str) -> float:
    """Seconds of a process."""
    path = f"{ROOT}:{Path(__file__).parent}"
    env = {"WANDB_MODE": "disabled", **os.environ, "PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        command = [sys.executable, *args]
        subprocess.run(command, cwd=directory, env=env, capture_output=True, check=True)
        return time.perf_counter() - start


def measure(rounds: int = 5, whole: bool = True) -> None:
    """Print a table in Markdown.

    Args:
        rounds: How often each command is run, in turns; the shortest time counts.
        whole: Whether to time the whole moons run as well.
    """
    best = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(rounds):
        for name, args in COMMANDS.items():
            best[name] = min(best[name], run(*args))
    if whole:
        best["100 epochs of configs/moons.yaml, with pictures"] = run(*FIT)
    first = next(iter(best.values()))
    rows = [(name, f"{value:.1f}", f"{value / first:.2f}") for name, value in best.items()]
    print_table(("command", "seconds", "times the first"), rows)


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)

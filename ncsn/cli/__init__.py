"""The command line: ``python -m ncsn COMMAND [options]``."""

import argparse
import importlib
import io
import logging
import os
import re
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ncsn.cli.messages import did_you_mean

COMMANDS = {
    "fit": "train a model",
    "validate": "compute the loss on the validation data",
    "test": "evaluate a model: samples, likelihood, losses",
    "diagnose": "tell the faults of the network from those of the solver",
    "predict": "draw samples",
    "restore": "draw what a measurement may come from: fill in, deblur, enlarge",
    "evaluate": "compare samples from any program with data",
    "export": "write a model to a folder, with a model card",
    "compare": "put runs side by side",
    "features": "train a feature network, in which images are compared",
}

EXPECTED_WARNINGS = (
    ".*LeafSpec.*is deprecated",  # Lightning 2.6 with torch 2.15
    ".*instantiate_classes.* was deprecated",  # Lightning 2.6 with jsonargparse 4.49
    ".*callbacks used to create the checkpoint need to be provided",  # fit's, not predict's
    "The dirpath has changed from",  # every run has its own directory
    "Couldn't infer the batch indices",  # predict's batches are the numbers of the samples
    ".*does not have many workers",  # batches come out of memory
    ".*your dataloader is not resumable",  # its sampler is
    "Experiment logs directory .* exists",  # when a run resumes, and its metrics are kept
    "Checkpoint directory .* exists",  # the same
    "It is recommended to use .*sync_dist=True",  # the metrics are, by torchmetrics
    "The `srun` command is available",  # on a cluster's front end, and nothing is wrong
    "LightningCLI's args parameter is intended",  # they are those of the command
)
"""Warnings of libraries that are true of every run here, and that no user could act on."""

FORMAT = warnings.formatwarning

EXPECTED_MESSAGES = ("💡 Tip", "TPU available", "Loading `train_dataloader`")
"""Messages of Lightning of the same kind."""


def main(args: list[str] | None = None) -> None:
    """Run the command line with the given arguments, by default those of the process."""
    if args is None:  # the process is ours
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, _stop)
        if isinstance(sys.stdout, io.TextIOWrapper):  # σ must not end a run, as to an ASCII log
            sys.stdout.reconfigure(errors="backslashreplace")
        args = sys.argv[1:]
    parser = _Parser(
        prog="ncsn",
        description="Score-based generative models: train them, evaluate them, draw samples.",
        epilog="The options of a command: ncsn COMMAND --help",
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    command = parser.parse_args(args[:1]).command
    if not {"", str(Path.cwd())} & set(sys.path):  # as `python -m` does, for a user's own classes
        sys.path.insert(0, str(Path.cwd()))
    _quieten_libraries()
    _say_what_is_loaded(command)
    try:
        _run(command, args[1:])
    except (Exception, KeyboardInterrupt) as error:
        from ncsn.cli.errors import exit_with  # imports Lightning, which compare does without

        exit_with(error)


def _stop(signum: int, _: Any) -> None:
    """End at once, with one line: outside a run, there is nothing to save."""
    interrupted = signum == signal.SIGINT
    reason = "interrupted" if interrupted else f"stopped by {signal.Signals(signum).name}"
    with suppress(OSError):  # of a terminal that is gone
        os.write(2, f"error: {reason}\n".encode())
    if hasattr(sys.modules.get("ncsn.cli.parser"), "CLI"):
        sys.exit(128 + signum)
    os._exit(128 + signum)  # an import can lose an exception


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        if unknown := re.search("invalid choice: '(.+?)'", message):
            message += did_you_mean(unknown[1], COMMANDS, cutoff=0.6)
        sys.stderr.write(f"error: {message}; see {self.prog} --help\n")
        sys.exit(2)


def _run(command: str, args: list[str]) -> None:
    if command == "compare":
        return _compare(args)
    from ncsn.runtime import keep_freed_memory

    keep_freed_memory()
    if command in ("features", "evaluate"):
        return importlib.import_module(f"ncsn.cli.{command}").run(args)
    from ncsn.cli.commands import COMMANDS as FUNCTIONS
    from ncsn.cli.parser import CLI

    cli = CLI(args, FUNCTIONS[command])
    FUNCTIONS[command](cli, **cli.options)


def _compare(args: list[str]) -> None:
    """Put runs side by side: one table of their estimates, one picture of their curves."""
    from ncsn.evaluation.compare import compare

    output = Path("lightning_logs/comparison")
    parser = _Parser(prog="ncsn compare", description=_compare.__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of fits or of tests")
    parser.add_argument("--output", type=Path, default=output, help="directory of the results")
    compare(**vars(parser.parse_args(args)))


def _say_what_is_loaded(command: str) -> None:
    """A sign of life before the imports, which take seconds, for someone at a terminal."""
    ranks = {os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")}
    libraries = "torch" if command == "compare" else "torch and Lightning"
    if sys.stderr is not None and sys.stderr.isatty() and ranks == {"0"}:
        print(f"ncsn {command}: loading {libraries}", file=sys.stderr, flush=True)


def _quieten_libraries() -> None:
    """Leave out what no user could act on, and show our own warnings in one line."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    package = Path(__file__).parents[1]

    def format_warning(message: Any, category: Any, filename: str, *args: Any) -> str:
        own = Path(filename).is_relative_to(package)
        return f"warning: {message}\n" if own else FORMAT(message, category, filename, *args)

    warnings.formatwarning = format_warning  # type: ignore[assignment]
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not record.getMessage().startswith(EXPECTED_MESSAGES)
    )

"""The options of all commands in one plain parser, for the Tab key.

``shtab --shell bash ncsn.cli.completion.parser`` writes a script that completes commands, options,
classes and file names. (jsonargparse's own has the arguments of all subclasses of all libraries,
85 MB of them.)
"""

import argparse
import inspect
from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser

from ncsn import cli, data, modules, networks, sampling
from ncsn.cli.commands import COMMANDS
from ncsn.cli.parser import CLI
from ncsn.modules.links import DATA_LINKS

PARTS = {
    "model": (modules, modules.ScoreModule),
    "data": (data, LightningDataModule),
    "model.network": (networks, networks.ScoreNetwork),
    "model.sampler": (sampling, sampling.Sampler),
}
"""Options that are classes: where these are, and what they have in common."""

FILES = {"config", "ckpt_path", "output", "evaluation", "resume", "input", "features"}


class Options(CLI):
    """The options of a command, by name; makes nothing."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Take the defaults."""
        self.config = self.config_init = parser.get_defaults(skip_validation=True)
        self.config.seed_everything = False

    def instantiate_classes(self) -> None:
        """Leave that out."""


def parser() -> argparse.ArgumentParser:
    """The commands with their options, as shtab reads them."""
    import shtab

    classes = {option: _classes(*part) for option, part in PARTS.items()}
    known = [name for option in PARTS for each in classes[option] for name in _names(option, each)]
    root = argparse.ArgumentParser(prog="ncsn")
    commands = root.add_subparsers()
    for command, text in cli.COMMANDS.items():
        sub = commands.add_parser(command, help=text)
        if command in COMMANDS:
            own = _short(Options([], COMMANDS[command]).config.keys())
            for name in dict.fromkeys(["config", *PARTS, *own, *known]):
                choices = [each.__name__ for each in classes.get(name, [])] or None
                action = sub.add_argument(f"--{name}", choices=choices)
                if name in FILES:
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
    return root


def _classes(module: Any, base: type) -> list[type]:
    exported = (getattr(module, name) for name in module.__all__)
    classes = [each for each in exported if isinstance(each, type) and issubclass(each, base)]
    return [each for each in classes if not inspect.isabstract(each)]


def _names(option: str, cls: type) -> list[str]:
    """The arguments of a class, as options."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, option, skip=set(DATA_LINKS), fail_untyped=False)
    return _short(parser.get_defaults(skip_validation=True).keys())


def _short(keys: Iterable[str]) -> list[str]:
    """The keys of a config as options."""
    return [key.replace(".init_args", "").removesuffix(".class_path") for key in keys]

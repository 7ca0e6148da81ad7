"""``--ckpt_path``: which checkpoint is meant, and what of its model may be changed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_info

from ncsn.modules.stored import changed_arguments, check_class_paths
from ncsn.modules.stored_config import model_from
from ncsn.runtime import load_checkpoint
from ncsn.runtime.checkpoints import CHECKPOINTS, LAST, find_last_checkpoint
from ncsn.runtime.runs import find_last_run

if TYPE_CHECKING:
    from ncsn.cli.parser import CLI


def find_checkpoint(cli: "CLI") -> None:
    """Look for the checkpoint, and read it before the work begins."""
    assert cli.command is not None
    command, config = cli.command.__name__, cli.config
    if config.ckpt_path is None:
        if command != "fit":
            raise ValueError(f"{command} needs trained weights: give --ckpt_path CHECKPOINT")
        return
    if config.ckpt_path != "last":
        cli.checkpoint = Path(config.ckpt_path)
        load_checkpoint(cli.checkpoint)  # refuses what is not one
        return
    csv = cli.loggers("RunLogger")
    if not csv or cli.loggers()[0] is not csv[0]:
        problem = "it is not the first, which has the checkpoints" if csv else "there is none"
        raise ValueError(
            f"--ckpt_path last looks where trainer.logger's CSVLogger writes, and {problem}: "
            "give the path of a checkpoint"
        )
    last = config.last
    if f"{last.filename}.ckpt" != LAST:
        raise ValueError(
            f"--ckpt_path last looks for {LAST}, and --last.filename is {last.filename}: "
            "give the path of a checkpoint"
        )
    runs = Path(csv[0].init_args.save_dir) / csv[0].init_args.name
    run = find_last_run(runs)
    cli.checkpoint = run and find_last_checkpoint(run, last.dirpath and Path(last.dirpath))
    if command == "fit":
        cli.run, config.ckpt_path = run, None  # in the stored config
        if run is None:
            rank_zero_info(f"--ckpt_path last: no run in {runs} yet, so this is the first")
    elif cli.checkpoint is None:
        raise ValueError(f"--ckpt_path last: {run or f'no run in {runs}'} has no checkpoint")
    else:
        config.ckpt_path = str(cli.checkpoint)


def refuse_to_overwrite(cli: "CLI") -> None:
    """Refuse a directory of checkpoints, chosen by the user, that has those of another run.

    Raises:
        ValueError: If a checkpoint would be overwritten.
    """
    trainer, config = cli.config.trainer, cli.config
    saves = trainer.enable_checkpointing is not False and not trainer.barebones
    if cli.run is not None or trainer.fast_dev_run or not saves:
        return
    root = trainer.default_root_dir if trainer.logger is False else None
    resumed = cli.checkpoint and cli.checkpoint.parent.resolve()
    for name in ("best", "last"):
        directory = config[name].dirpath or (root and Path(root, CHECKPOINTS))
        path = Path(directory or "", f"{config[name].filename}.ckpt")
        if directory and path.exists() and path.parent.resolve() != resumed:
            raise ValueError(
                f"{path} is of another run and would be overwritten: give another "
                f"--{name}.dirpath, or resume with --ckpt_path {path}"
            )


def take_model_from_checkpoint(cli: "CLI", parser: LightningArgumentParser) -> None:
    """Take the model from the checkpoint, and from the user what to do with it."""
    assert cli.checkpoint is not None
    model = model_from(load_checkpoint(cli.checkpoint))
    if model is None:
        return
    check_class_paths(model, cli.stored_config())
    cli.model_is_stored = True
    names = ("sampler", "guidance_scale")
    _check_same_model(cli, model["class_path"], model["dict_kwargs"])
    init_args = cli.config.model.init_args
    given = {name: init_args[name] for name in names if name in init_args}
    cli.config = parser.parse_object({"model": model}, cli.config)
    for name, value in given.items():
        cli.config.model.init_args[name] = value


def _check_same_model(cli: "CLI", class_path: str, init_args: dict[str, Any]) -> None:
    """Refuse a model of another class, and options of the model without an effect."""
    assert cli.command is not None
    config = cli.stored_config()["model"]
    if config["class_path"] != class_path:
        given, stored = (each.rpartition(".")[2] for each in (config["class_path"], class_path))
        shape = tuple(init_args.get("data_shape", ()))
        raise ValueError(
            f"the checkpoint is of {stored}, for data of shape {shape}, and the config of "
            f"{given}: leave --config out"
        )
    given = {name: config["init_args"].get(name) for name in cli.typed}
    for key, before, now in changed_arguments(init_args, given):
        if now is not None:  # what is linked to the data is stored, and cannot be given
            raise ValueError(
                f"--model.{key} {now} has no effect: {cli.command.__name__} takes the model "
                f"from the checkpoint, which has {before}"
            )

"""Private attributes of Lightning, W&B, jsonargparse and torch: which are used, and where.

They may change with any release. So they are used in ``ncsn/runtime`` only, and this test, which
names each of them, fails when an upgrade takes one away.
"""

import ast
import importlib
import inspect
import re
from functools import cache

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.loggers import logger as fabric_logger
from lightning.fabric.utilities import cloud_io
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import instantiate_module
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loggers import utilities as logger_utilities
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from support.paths import ROOT

PACKAGE = ROOT / "ncsn"
SOURCES = sorted(PACKAGE.rglob("*.py"))


@cache
def trainer():
    """A trainer, for attributes that its parts get when they are made."""
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


PRIVATE = {
    # Written for Lightning 2.6.
    ("_step_supports_amp_scaling", "runtime/clipping.py"): (
        lambda: torch.optim.Adam([torch.zeros(1)], fused=True),
        "by which torch and Lightning know that an optimizer unscales gradients itself",
    ),
    ("_is_local_file_protocol", "runtime/checkpoints.py"): (
        lambda: cloud_io,
        "tells paths from URLs, whose checkpoints are left to Lightning",
    ),
    ("_should_skip_saving_checkpoint", "runtime/checkpoints.py"): (
        lambda: ModelCheckpoint,
        "whether the step has been saved",
    ),
    ("_save_topk_checkpoint", "runtime/checkpoints.py"): (
        lambda: ModelCheckpoint,
        "saves the end of an epoch, which Lightning leaves out if it saves every so many steps",
    ),
    ("_monitor_candidates", "runtime/checkpoints.py"): (lambda: ModelCheckpoint, "its argument"),
    ("_experiment", "runtime/runs.py"): (lambda: CSVLogger("."), "the writer of metrics.csv"),
    ("_version", "runtime/runs.py"): (
        lambda: CSVLogger("."),
        "the number of the run, which another process may have taken",
    ),
    ("_get_next_version", "runtime/runs.py"): (lambda: CSVLogger("."), "chooses it"),
    ("_rewrite_with_new_header", "runtime/runs.py"): (
        lambda: ExperimentWriter,
        "Lightning's loses the file when it is killed",
    ),
    ("_fs", "runtime/runs.py"): (lambda: CSVLogger("."), "used by the writer of metrics.csv"),
    ("_batches_that_stepped", "runtime/resume.py"): (
        lambda: trainer().fit_loop.epoch_loop,
        "the step under which loggers log; Lightning counts it once too often on load",
    ),
    ("_restarting", "runtime/resume.py"): (
        lambda: trainer().fit_loop,
        "set where an epoch has ended, which Lightning ends again with max_steps",
    ),
    ("_should_check_val_fx", "runtime/resume.py"): (
        lambda: trainer().fit_loop.epoch_loop,
        "whether a validation was due after the batch of the checkpoint",
    ),
    ("_data_fetcher", "runtime/resume.py"): (
        lambda: trainer().fit_loop,
        "its argument",
    ),
    ("_signal_connector", "runtime/signals.py"): (
        trainer,
        "Lightning's signal handlers end without a checkpoint, and deadlock under DDP",
    ),
    ("_should_accumulate", "runtime/signals.py"): (
        lambda: trainer().fit_loop,
        "whether the optimizer has used all gradients, as Lightning sees it",
    ),
    ("_DummyExperiment", "runtime/wandb.py"): (
        lambda: fabric_logger,
        "swallows what is logged when W&B cannot start",
    ),
    ("_experiment", "runtime/wandb.py"): (
        lambda: WandbLogger(),
        "W&B's run, which may have to be started offline",
    ),
    ("_offline", "runtime/wandb.py"): (lambda: WandbLogger(), "whether it is"),
    ("_log_model", "runtime/wandb.py"): (
        lambda: WandbLogger(),
        "whether checkpoints are uploaded, which takes longer",
    ),
    ("_scan_and_log_checkpoints", "runtime/wandb.py"): (
        lambda: WandbLogger(),
        "uploads them; Lightning's calls the last one the best",
    ),
    ("_scan_checkpoints", "runtime/wandb.py"): (lambda: logger_utilities, "finds the new ones"),
    ("_logged_model_time", "runtime/wandb.py"): (lambda: WandbLogger(), "its argument"),
    ("_checkpoint_name", "runtime/wandb.py"): (lambda: WandbLogger(), "the user's name for them"),
    ("_wandb_init", "runtime/wandb.py"): (
        lambda: WandbLogger(),
        "arguments of wandb.init that Lightning does not let through",
    ),
}
"""By name and file: what has the attribute, and why it is used."""

KEYS = ("_class_path", "_instantiator")
"""What Lightning's command line adds to the hyperparameters in a checkpoint."""


def external_bases(cls):
    """The classes of other packages that a class inherits from."""
    return [
        base
        for base in cls.__mro__
        if base.__module__.split(".")[0] in ("lightning", "wandb", "jsonargparse")
    ]


@cache
def own_private_names(cls):
    """The private attributes that a class's own source assigns or defines."""
    tree = ast.parse(inspect.getsource(cls))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return functions | {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) == "self"
    }


def is_private(name):
    return bool(re.fullmatch(r"_[A-Za-z]\w*[A-Za-z0-9]", name))


def strings_used_as_names(node):
    """Strings with which an attribute or a key is looked up, as in ``getattr(x, "_name")``."""
    if isinstance(node, ast.Subscript):
        used = [node.slice]
    elif isinstance(node, ast.Call):
        function = ast.unparse(node.func).split(".")[-1]
        used = node.args if function in ("getattr", "setattr", "hasattr", "get", "pop") else []
    elif isinstance(node, ast.Compare):
        used = [node.left, *node.comparators]
    elif isinstance(node, ast.Dict):
        used = [key for key in node.keys if key is not None]
    else:
        used = []
    yield from (each.value for each in used if isinstance(each, ast.Constant))


def private_names(path):
    """The private names of other packages in a file: attributes, imports, names in strings."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("ncsn"):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            if ast.unparse(node.value) not in ("self", "cls", "os"):
                names |= {node.attr}
        elif isinstance(node, ast.ClassDef):
            cls = getattr(importlib.import_module(module), node.name, None)
            bases = external_bases(cls) if cls else []
            theirs = set().union(*map(own_private_names, bases))
            names |= theirs & {
                getattr(inner, "attr", getattr(inner, "name", None)) for inner in ast.walk(node)
            }
        names |= {name for name in strings_used_as_names(node) if isinstance(name, str)}
    return set(filter(is_private, names))


def test_private_attributes_of_other_packages_are_used_where_this_test_says():
    found = {
        (name, str(path.relative_to(PACKAGE))) for path in SOURCES for name in private_names(path)
    }
    keys = {(name, file) for name, file in found if name in KEYS}
    assert found - keys == PRIVATE.keys()
    assert {file.split("/")[0] for _, file in found - keys} == {"runtime"}
    assert {file for _, file in keys} == {"modules/stored_config.py"}


@pytest.mark.parametrize("use", PRIVATE, ids="-".join)
def test_a_private_attribute_exists_in_the_installed_version(use):
    owner, why = PRIVATE[use]
    name, _ = use
    assert hasattr(owner(), name), f"was written for Lightning 2.6: {why}"


def test_private_keys_are_those_of_the_installed_version(trained):
    checkpoint = torch.load(trained("moons") / "checkpoints/last.ckpt", weights_only=True)
    stored = checkpoint["hyper_parameters"]
    assert {name for name in stored if is_private(name)} == set(KEYS)
    # What Lightning itself would store, and how load_from_checkpoint uses it.
    instantiator = f"{instantiate_module.__module__}.{instantiate_module.__name__}"
    assert stored["_instantiator"] == instantiator
    source = inspect.getsource(importlib.import_module("lightning.pytorch.core.saving"))
    source += inspect.getsource(importlib.import_module("lightning.pytorch.cli"))
    assert all(f'"{key}"' in source for key in KEYS)

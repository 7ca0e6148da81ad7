"""The sweeps of ``configs/sweeps``, run by W&B's own agent as far as it goes without a server."""

import csv
import json
import re
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from support.commands import QUICK, run_process
from support.jobs import genuine
from support.paths import CONFIGS, ROOT
from support.wandb_server import wandb_server
from wandb import wandb_agent

GUIDE = ROOT / "docs/guide/wandb.md"
SWEEPS = sorted((CONFIGS / "sweeps").glob("*.yaml"))
SHORT = (*QUICK, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2)
VARIANTS = ("${args}", "${args_no_equals}", "${args_no_hyphens}")


def read_sweep(path):
    return yaml.safe_load(path.read_text())


def first_values(sweep):
    """A value of each parameter: the first, or the smallest."""
    parameters = sweep["parameters"].items()
    return {name: each.get("values", [each.get("min")])[0] for name, each in parameters}


@pytest.fixture
def expand(monkeypatch):
    """``expand(sweep, values)`` is the agent's command line, with what it adds to the environment.

    W&B's class does it, but for the process, which it does not start.
    """

    def run(sweep, values, run_id="run1"):
        started = SimpleNamespace()
        with monkeypatch.context() as patch:
            patch.setattr(
                wandb_agent, "AgentProcess", lambda **args: vars(started).update(args) or started
            )
            patch.setenv("WANDB_SWEEP_ID", "sweep1")
            patch.setenv("WANDB_DIR", str(Path.cwd()))
            patch.setenv("WANDB_RUN_ID", "")
            patch.setenv("WANDB_SWEEP_PARAM_PATH", "")
            agent = wandb_agent.Agent(None, None, sweep_id="sweep1")
            agent._sweep_command = list(sweep["command"])
            args = {name: {"value": value} for name, value in values.items()}
            agent._command_run({"run_id": run_id, "program": sweep["program"], "args": args})
        names = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_DIR")
        return started.command, {name: started.env[name] for name in names}

    return run


@pytest.fixture
def run_agent(server, expand):
    """Runs the agent's command line in the server; returns the directory of the run's config."""

    def run(sweep, values, *options, run_id="run1", **environment):
        command, variables = expand(sweep, values, run_id)
        start = ["/usr/bin/env", "python", "-m", "ncsn"]
        assert command[:4] == start
        args = [str(ROOT / each) if each.startswith("configs/") else each for each in command[4:]]
        output = run_process(server, *args, *options, **{**variables, **environment})
        (runs,) = {Path(each).stem for each in command if each.startswith("configs/")}
        return Path("lightning_logs") / runs, output

    return run


def read_losses(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [row["val/loss_per_dim"] for row in csv.DictReader(file) if row["val/loss_per_dim"]]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_of_a_sweep_takes_the_values_and_logs_the_metric(path, variant, run_agent):
    sweep = read_sweep(path)
    assert sweep["metric"] == {"name": "val/loss_per_dim", "goal": "minimize"}
    sweep["command"] = [variant if each == "${args}" else each for each in sweep["command"]]
    values = first_values(sweep)
    runs, output = run_agent(sweep, values, *SHORT, WANDB_MODE="offline")
    assert "Ignoring" not in output  # W&B's word for a project or an identifier of our own
    config = yaml.safe_load((runs / "version_0/config.yaml").read_text())
    for name, value in values.items():
        found = config
        for part in name.split("."):
            found = found.get("init_args", found)[part] if part not in found else found[part]
        assert found == value
    assert len(read_losses(runs / "version_0")) == 1
    assert (runs / "version_0/wandb_id.txt").read_text() == "run1"


def test_each_run_of_a_sweep_is_one_of_its_own_and_resumes_after_a_preemption(run_agent):
    sweep = read_sweep(CONFIGS / "sweeps/moons.yaml")
    values = first_values(sweep)
    more = values | {"model.optimizer.lr": 0.02}
    runs, _ = run_agent(sweep, values, *SHORT, WANDB_MODE="offline")
    run_agent(sweep, more, *SHORT, run_id="run2", WANDB_MODE="offline")
    assert sorted(path.name for path in runs.iterdir()) == ["version_0", "version_1"]
    # The agent is told to resume the first, not the last one that was started.
    longer = (*SHORT, "--trainer.max_epochs", 2)
    _, output = run_agent(sweep, values, *longer, WANDB_MODE="offline")
    assert "moons/version_0: resuming from step 2" in output
    assert len(read_losses(runs / "version_0")) == 2
    assert sorted(path.name for path in runs.iterdir()) == ["version_0", "version_1"]


@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("trainer.enable_model_summary", False, False),
        ("trainer.gradient_clip_val", "null", None),
        ("model.preview.sampler", {"class_path": "Langevin", "init_args": {"num_steps": 5}}, 5),
        ("wandb.tags", ["a", "b"], ["a", "b"]),
        ("wandb.name", "lr=1", "lr=1"),
        ("model.optimizer.lr", 1e-05, 1e-05),
    ],
)
def test_values_of_any_type_arrive_as_python_writes_them(option, value, found, expand):
    from ncsn.cli.parser import CLI

    sweep = read_sweep(CONFIGS / "sweeps/moons.yaml")
    command, _ = expand(sweep, {option: value})
    with chdir(ROOT):
        config = CLI([each for each in command[5:] if each not in ("--ckpt_path", "last")]).config
    for part in option.split("."):
        config = config[part] if part in config else config["init_args"][part]
    if isinstance(value, dict):
        assert config["class_path"] == "ncsn.sampling.Langevin"
        config = config["init_args"]["num_steps"]
    assert config == found


def run_wandb(*args, **environment):
    """Run W&B's own program; returns its output."""
    command = [sys.executable, "-m", "wandb", *args]
    env = {name: value for name, value in genuine(**environment).items() if value is not None}
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout + found.stderr


def test_the_command_of_the_document_makes_a_sweep_whose_agent_runs_it():
    (command,) = re.findall("^wandb (sweep .*)$", GUIDE.read_text(), re.MULTILINE)
    Path("configs").symlink_to(CONFIGS)
    sweep = read_sweep(Path(command.split()[-1]))
    values = first_values(sweep) | {"trainer.max_epochs": 1, "model.preview.every_n_epochs": 0}
    args = {name: {"value": value} for name, value in values.items()}
    told = {"type": "run", "run_id": "run1", "program": sweep["program"], "args": args}
    with wandb_server() as stub:
        output = run_wandb(*command.split(), **stub.environment)
        assert yaml.safe_load(stub.sweep) == sweep
        (agent,) = re.findall("wandb (agent [\\w/]+)", output)
        assert agent == "agent someone/ncsn/sweep1"
        stub.commands.append(told)
        run_wandb(*agent.split(), "--count", "1", **stub.environment)
    queries = [json.loads(body) for path, body in stub.requests if path == "/graphql"]
    runs = [each["variables"] for each in queries if "UpsertBucket" in each["query"]]
    assert {run["sweep"] for run in runs} == {"sweep1"}
    assert runs[0]["name"] == "run1"
    assert any(b"val/loss_per_dim" in body for path, body in stub.requests if "stream" in path)
    assert len(read_losses(Path("lightning_logs/digits/version_0"))) == 1


def test_the_parameters_of_the_document_are_options(run_agent):
    sweep = read_sweep(CONFIGS / "sweeps/digits.yaml")
    (snippet,) = re.findall("```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    sweep["parameters"] = yaml.safe_load(snippet)["parameters"]
    values = first_values(sweep) | {"model.network": "ConditionedResNet"}
    assert values["model.network"] in sweep["parameters"]["model.network"]["values"]
    runs, _ = run_agent(sweep, values, *SHORT, WANDB_MODE="disabled")
    config = yaml.safe_load((runs / "version_0/config.yaml").read_text())
    network = config["model"]["init_args"]["network"]["class_path"]
    assert network == "ncsn.networks.ConditionedResNet"

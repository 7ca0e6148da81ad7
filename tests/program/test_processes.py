"""Genuine processes: how they start, what they say, how they end."""

import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support.commands import QUICK, error_line, smoke
from support.paths import ROOT

COMMANDS = ("fit", "validate", "test", "predict", "restore", "compare", "features")


def run(*command, status=0):
    """Run a program in a genuine process."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        list(map(str, command)),
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == status, result.stderr[-3000:]
    return result


def python(*args, status=0):
    """Run ``python -m ncsn``."""
    return run(sys.executable, "-m", "ncsn", *args, status=status)


def test_help_lists_the_commands_at_once():
    """Before anything is imported: it takes a tenth of a second, not the seconds of a run."""
    output = python("--help").stdout
    for command in COMMANDS:
        assert f"\n    {command} " in output
    assert "COMMAND --help" in output
    loaded = run(
        sys.executable,
        *(
            "-c",
            "import sys, ncsn.cli\ntry: ncsn.cli.main(['--help'])\nfinally: print(*sys.modules)",
        ),
    ).stdout
    assert not {"torch", "lightning", "jsonargparse"} & set(loaded.split())


def test_an_unknown_command_is_answered_with_those_that_exist():
    output = python("sample", status=2).stderr
    assert len(output.splitlines()) == 1
    assert all(command in error_line(output) for command in ("sample", *COMMANDS))


def test_no_command_is_answered_with_how_to_get_help():
    output = python(status=2).stderr
    assert len(output.splitlines()) == 1
    assert "ncsn --help" in error_line(output)


def test_the_help_of_a_command_tells_its_options(cli, capsys):
    assert cli("fit", "--help") == 0
    fit = capsys.readouterr().out
    assert cli("predict", "--help") == 0
    predict = capsys.readouterr().out
    for option in ("--config", "--name", "--ckpt_path", "--trainer.max_epochs", "--model.help"):
        assert option in fit
        assert option in predict
    assert "Train a model; samples, losses and checkpoints go to" in fit
    assert "Draw samples and write them to samples.npz" in predict
    for option in ("--num_samples", "--batch_size", "--label", "--resume", "--first_sample"):
        assert option in predict
        assert option not in fit
    assert "Number of samples to draw" in predict  # from the docstring


def test_the_console_script_trains_like_python_m(tmp_path):
    script = Path(sysconfig.get_path("scripts")) / "ncsn"
    if not script.is_file():
        pytest.skip("the project is not installed: pip install -e .")
    (tmp_path / "own_network.py").write_text("from ncsn.networks import MLP as Own")
    args = ("fit", *smoke("moons"), *QUICK, "--model.network", "own_network.Own")
    run(script, *args)
    python(*args)
    runs = [tmp_path / f"lightning_logs/moons/version_{n}" for n in range(2)]
    first, second = ((run / "metrics.csv").read_text() for run in runs)
    assert first == second


def test_a_mistake_in_a_process_has_no_traceback():
    output = python("fit", *smoke("moons"), "--model.sigma", -1, status=1).stderr
    assert "Traceback" not in output
    assert "sigma must be a number from 1e-15" in error_line(output)


PAGE_FAULTS = """
import resource, torch
from ncsn.runtime import keep_freed_memory

def page_faults():
    torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned = page_faults()
keep_freed_memory()
print(returned, page_faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_of_freed_tensors_is_used_again():
    returned, kept = map(int, run(sys.executable, "-c", PAGE_FAULTS).stdout.split())
    assert kept < 0.1 * returned

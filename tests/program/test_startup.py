"""The first second: a sign of life before the imports, and no import without need."""

import os
import subprocess
import sys

import pytest

START = """
import io, os, sys

class Terminal(io.StringIO):
    def isatty(self):
        return True
    def write(self, text):
        if "loading" in text:
            print(text.strip(), "torch" in sys.modules)
            sys.stdout.flush()
            os._exit(0)
        return super().write(text)

sys.stderr = Terminal()
from ncsn.cli import main
"""


def run_python(code, **environment):
    """Run code in a process of its own; returns its output."""
    command = [sys.executable, "-c", code]
    env = {**os.environ, **environment}
    process = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize("command", ["fit", "predict", "evaluate"])
def test_a_terminal_reads_what_is_loaded_before_it_is(command):
    expected = f"ncsn {command}: loading torch and Lightning False"
    assert run_python(f"{START}main(['{command}'])") == expected


@pytest.mark.parametrize("rank", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_other_ranks_say_nothing(rank):
    code = START.replace("from ncsn.cli import main", "import ncsn.cli")
    code += "ncsn.cli._say_what_is_loaded('fit'); print('nothing')"
    assert run_python(code, **{rank: "1"}) == "nothing"


def test_a_log_file_gets_no_sign_of_life():
    code = "import ncsn.cli, sys; ncsn.cli._say_what_is_loaded('fit'); sys.stderr.flush()"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert process.stderr == b""


def test_compare_does_without_lightning():
    code = """
import sys
from ncsn.cli import main
try:
    main(["compare", "--help"])
finally:
    print([name for name in ("lightning", "torchvision", "wandb") if name in sys.modules])
"""
    assert run_python(code).endswith("[]")


def test_a_terminal_of_ascii_alone_does_not_end_a_command(tmp_path):
    rows = "epoch,step,val/loss_per_dim\n0,0,0.5\n1,1,0.4\n"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.csv").write_text(rows)
    process = subprocess.run(
        [sys.executable, "-m", "ncsn", "compare", "run"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert rb"Better: \u2193 lower" in process.stdout

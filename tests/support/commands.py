"""Command lines whose outcome is of interest, not their course."""

from pathlib import Path

from support.paths import CONFIGS, SMOKE

QUICK = (
    *("--model.preview.every_n_epochs", 0, "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false"),
)
"""Nothing is drawn."""


def smoke(config):
    """The options of a smoke run."""
    return ("--config", CONFIGS / f"{config}.yaml", *SMOKE)


def run_process(server, *args, status=0, **environment):
    """Run ``python -m ncsn ARGS`` in a process of the server; returns its output.

    Args:
        server: The fixture of that name.
        args: The command line.
        status: The exit status that is expected.
        environment: Variables that differ from this process's; None takes one away.
    """
    log = Path("output.txt")
    log.unlink(missing_ok=True)
    found = server.start(args, log, environment).wait()
    output = log.read_text()
    assert found == status, output[-3000:]
    return output


def error_line(output):
    """The last line of an output, which says what is wrong."""
    *_, last = output.strip().splitlines()
    assert last.startswith("error: "), output[-3000:]
    return last.removeprefix("error: ")

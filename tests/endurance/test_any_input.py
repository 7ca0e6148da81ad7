"""Whatever is typed: it runs, or it ends with one line and a non-zero status."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.commands import QUICK, error_line, smoke

from ncsn.modules import ScoreModule

pytestmark = [pytest.mark.timeout(1500), pytest.mark.usefixtures("restore_signals")]

FAST = (*smoke("moons"), *QUICK, "--trainer.max_steps", 1, "--trainer.num_sanity_val_steps", 0)
# With these, tests/endurance/test_ranks.py starts further processes.
PROCESSES = {"devices", "num_nodes", "strategy"}
CLASSES = [
    *("ncsn.modules.NCSN", "ncsn.modules.DSM", "ncsn.data.DigitsDataModule", "ncsn.networks.UNet"),
    *("ncsn.networks.ConditionedResNet", "ncsn.sampling.Heun", "ncsn.sampling.AnnealedLangevin"),
    *("ncsn.parametrisation.Noise", "ncsn.levels.Rho", "ncsn.callbacks.Preview"),
    *("torch.optim.SGD", "torch.optim.lr_scheduler.OneCycleLR", "EarlyStopping", "os.system"),
    *("nowhere.Nothing", "torch.nn.Linear", "ncsn.objectives.implicit_score_matching"),
]
values = st.one_of(
    st.sampled_from([None, True, False, -1, 0, 1, 2, 3, 0.5, -0.5, 1e-30, 1e30, "nan", "inf"]),
    st.sampled_from(["", "x", "auto", "1e-3", "σ", "null", "[", "{}", "../..", [], {}, [1, 2]]),
    st.sampled_from(CLASSES),
    st.builds(lambda name: {"class_path": name}, st.sampled_from(CLASSES)),
    st.text(max_size=8),
    st.dictionaries(st.text(max_size=4), st.integers(-3, 3), max_size=2),
)
settings.register_profile(
    "cli",
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def training_step(self, batch, batch_idx):
    """Ends a training of any length after this step."""
    self.trainer.should_stop = True
    return STEP(self, batch, batch_idx)


STEP = ScoreModule.training_step


@pytest.fixture
def base(cli, capsys, tmp_path, monkeypatch):
    """A whole config, with all defaults."""
    monkeypatch.setattr(ScoreModule, "training_step", training_step)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # for files with tracebacks
    assert cli("fit", *FAST, "--print_config") == 0
    return yaml.safe_load(capsys.readouterr().out)


def paths(config, prefix=()):
    """The paths of all values in nested containers, the containers among them."""
    items = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in items:
        if key not in PROCESSES:
            yield (*prefix, key)
            if isinstance(value, dict | list):
                yield from paths(value, (*prefix, key))


def mutate(config, path, action, value):
    """Change, remove or add one value; what an earlier mutation has removed stays away."""
    *parents, key = path
    for parent in parents:
        try:
            config = config[parent]
        except (KeyError, IndexError, TypeError):
            return
    try:
        if action == "remove":
            del config[key]
        elif action == "add":
            config[f"{key}_"] = value
        else:
            config[key] = value
    except (KeyError, IndexError, TypeError):
        pass


def assert_runs_or_says_why(cli, capsys, *args):
    status = cli(*args)  # an exception would be a traceback
    output = capsys.readouterr().err
    if status:
        assert status in (1, 2)
        assert len(error_line(output)) > 1


@settings(settings.get_profile("cli"), max_examples=150)
@given(data=st.data())
def test_any_config(data, base, cli, capsys):
    config = copy.deepcopy(base)
    known = list(paths(base))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(known))
        action = data.draw(st.sampled_from(["change", "change", "remove", "add"]))
        mutate(config, path, action, data.draw(values))
    Path("mutated.yaml").write_text(yaml.safe_dump(config))
    assert_runs_or_says_why(cli, capsys, "fit", "--config", "mutated.yaml")


@settings(settings.get_profile("cli"), max_examples=300)
@given(data=st.data())
def test_any_command_line(data, base, cli, capsys):
    options = [".".join(path) for path in paths(base) if all(isinstance(k, str) for k in path)]
    options = [option.replace("init_args.", "") for option in options]
    extra = st.sampled_from(
        ["config", "help_", "ckpt_path", "model", "trainer.", "", "-", "data."]
    )
    args = []
    for _ in range(data.draw(st.integers(1, 2))):
        option = data.draw(st.sampled_from(options) | extra)
        value = data.draw(values.map(str))
        args += [f"--{option}", value] if data.draw(st.booleans()) else [f"--{option}={value}"]
    subcommand = data.draw(st.sampled_from(["fit"] * 8 + ["test", "predict", "validate", "fitt"]))
    assert_runs_or_says_why(cli, capsys, subcommand, *FAST, *args)


@settings(settings.get_profile("cli"), max_examples=60)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_as_a_config(content, cli, capsys):
    Path("bytes.yaml").write_bytes(content)
    assert_runs_or_says_why(cli, capsys, "fit", "--config", "bytes.yaml")

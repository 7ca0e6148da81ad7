"""What the program takes from the hardware: the precision, and how many threads train."""

import sys
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from support.commands import QUICK, error_line, smoke
from support.paths import CONFIGS
from support.runs import load_last
from torch.utils._python_dispatch import TorchDispatchMode

from ncsn.callbacks import Divergence, OneThread, Preflight
from ncsn.cli.parser import CLI
from ncsn.modules import NCSN
from ncsn.networks import MLP
from ncsn.parametrisation import EDM
from ncsn.runtime import precision as hardware
from ncsn.runtime.precision import Trainer, fast_precision

MOONS = smoke("moons")
RUN = Path("lightning_logs/moons/version_0")
AUTO = ("--trainer.precision", "auto")


def cpu_with(monkeypatch, *flags, speed=2.0):
    """Have the CPU say that it has these and no others, and that bfloat16 is so fast."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(flags, True))
    monkeypatch.setattr(hardware, "bfloat16_speed", lambda: speed)


@pytest.mark.parametrize(
    ("flags", "speed", "precision"),
    [
        (("avx2", "avx512_f"), 2.0, "32-true"),
        (("avx512_f", "avx512_bf16"), 2.0, "bf16-mixed"),
        (("avx512_f", "avx512_bf16"), 0.6, "32-true"),  # a Xeon whose AMX is switched off
        (("amx_tile", "amx_bf16"), 2.0, "bf16-mixed"),
        ((), 2.0, "32-true"),
    ],
)
def test_a_cpu_gets_bfloat16_if_it_computes_it_faster(flags, speed, precision, monkeypatch):
    cpu_with(monkeypatch, *flags, speed=speed)
    assert fast_precision("cpu")[0] == precision
    trainer = Trainer(accelerator="cpu", precision="auto", logger=False)
    assert trainer.precision == precision


@pytest.mark.parametrize(("major", "precision"), [(7, "32-true"), (8, "bf16-mixed")])
def test_a_gpu_gets_bfloat16_from_compute_capability_8_on(major, precision, monkeypatch):
    class Properties:
        name, minor = "a card", 0

    Properties.major = major
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    cpu_with(monkeypatch)
    for accelerator in ("auto", "gpu", "cuda"):
        assert fast_precision(accelerator)[0] == precision
    assert fast_precision("cpu")[0] == "32-true"
    assert fast_precision("tpu")[0] == "32-true"


def test_the_precision_is_resolved_printed_and_stored(cli, monkeypatch, caplog):
    cpu_with(monkeypatch, "avx512_bf16")
    caplog.set_level("INFO")
    assert cli("fit", *MOONS, *AUTO) == 0
    assert "auto: trainer.precision = bf16-mixed (the CPU convolves 2.0 times" in caplog.text
    written = yaml.safe_load((RUN / "config.yaml").read_text())
    assert written["trainer"]["precision"] == "bf16-mixed"
    assert load_last(RUN)["config"]["trainer"]["precision"] == "bf16-mixed"


def test_processes_that_differ_in_what_is_fast_are_refused():
    class Strategy:
        def broadcast(self, value):
            return "bf16-mixed"  # the first one's

        def reduce_boolean_decision(self, decision):
            return decision

    trainer = SimpleNamespace(strategy=Strategy(), precision="32-true", datamodule=None)
    module = NCSN(MLP(hidden_dim=8))
    with pytest.raises(ValueError, match="differ in what is fast, 32-true on this one"):
        Preflight().setup(trainer, module, "test")
    trainer.precision = "bf16-mixed"
    Preflight().setup(trainer, module, "test")


def test_the_network_is_tried_where_its_weights_are():
    # Before the setup, Lightning sets the device of a module whose weights it moves afterwards.
    module = NCSN(MLP(hidden_dim=8), num_levels=3)
    module._device = torch.device("meta")
    strategy = pl.Trainer(accelerator="cpu", logger=False).strategy
    trainer = SimpleNamespace(strategy=strategy, precision="32-true", datamodule=None)
    Preflight().setup(trainer, module, "fit")


def test_a_run_that_resumes_on_other_hardware_says_that_its_precision_changes(
    cli, monkeypatch, recwarn
):
    cpu_with(monkeypatch, "amx_bf16")
    assert cli("fit", *MOONS, *AUTO) == 0
    more = ("fit", *MOONS, *AUTO, *QUICK, "--ckpt_path", "last", "--trainer.max_epochs")
    assert cli(*more, 2) == 0
    assert not [each for each in recwarn if "resumed with" in str(each.message)]
    cpu_with(monkeypatch)
    with pytest.warns(UserWarning, match=r"trainer.precision=32-true \(was bf16-mixed\)"):
        assert cli(*more, 3) == 0


def test_an_unknown_precision_is_refused_in_one_line(cli, capsys):
    assert cli("fit", *MOONS, "--trainer.precision", "bf17") != 0
    line = error_line(capsys.readouterr().err)
    assert "bf17" in line
    assert "bf16-mixed" in line


def test_the_network_computes_in_bfloat16_and_scores_and_losses_in_float32():
    module = NCSN(MLP(hidden_dim=16), parametrisation=EDM())
    x, sigma = torch.randn(4, 2), torch.full((4,), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.network(x, sigma).dtype == torch.bfloat16
        assert module.score(x, sigma).dtype == module.loss(x, sigma).dtype == torch.float32


class Threads(OneThread):
    """Records the number of threads at the hooks."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def on_train_batch_start(self, *_):
        self.seen["training"] = torch.get_num_threads()

    def on_validation_batch_start(self, *_):
        self.seen["validation"] = torch.get_num_threads()

    def on_fit_end(self, *_):
        self.seen["end"] = torch.get_num_threads()


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads in this process, of its own choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    torch.set_num_threads(before)


def train(monkeypatch, cli, config, *options):
    """The number of threads in training, in validation and at the end."""
    made = []
    monkeypatch.setattr("ncsn.cli.parser.OneThread", lambda: made.append(Threads()) or made[-1])
    assert cli("fit", *smoke(config), *options) == 0
    return made[-1].seen


@pytest.mark.usefixtures("two_threads")
def test_a_small_network_is_trained_with_one_thread_and_samples_with_all(cli, monkeypatch, caplog):
    caplog.set_level("INFO")
    seen = train(monkeypatch, cli, "moons")
    assert seen == {"training": 1, "validation": 2, "end": 2}
    assert "training with one thread: the network is too small for 2" in caplog.text
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_larger_network_and_a_user_keep_their_threads(cli, monkeypatch, caplog):
    caplog.set_level("INFO")
    size = ("--data.batch_size", 128, "--model.network.hidden_dim", 512)
    assert train(monkeypatch, cli, "moons", *size)["training"] == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert train(monkeypatch, cli, "moons")["training"] == 2
    assert "one thread" not in caplog.text


class Reads(TorchDispatchMode):
    """Collects the operations that wait for a GPU, each with the step in which it is called."""

    WAITING = ("_local_scalar_dense", "nonzero", "equal.default", "masked_select")

    def __init__(self):
        super().__init__()
        self.step, self.found = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in self.WAITING):
            self.found.append(self.step)
        return func(*args, **(kwargs or {}))


class Steps(Callback):
    """Tells which step begins, and that the last has ended."""

    def __init__(self, reads):
        self.reads = reads

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.reads.step = trainer.global_step + 1

    def on_train_epoch_end(self, *_):
        self.reads.step = 0


def test_a_step_that_logs_nothing_never_waits_for_the_device(mnist_dir, monkeypatch):
    # On a CPU this callback looks at the loss of each step, which it does not on a GPU.
    monkeypatch.setattr(Divergence, "on_train_batch_end", lambda *_, **__: None)
    # Adam's counts of steps are on the CPU, with a GPU too.
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_get_value", lambda step: 1.0)
    options = {
        **{"data.data_dir": mnist_dir, "data.batch_size": 4, "model.network.filters": 8},
        **{"model.preview.every_n_epochs": 0, "trainer.accelerator": "cpu"},
        **{"trainer.gradient_clip_val": 1, "trainer.log_every_n_steps": 4},
        **{"trainer.limit_train_batches": 9, "trainer.max_epochs": 1},
        "trainer.limit_val_batches": 0,
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    program = CLI(["--config", f"{CONFIGS}/mnist_best.yaml", *given])
    with Reads() as reads:
        program.trainer.callbacks.append(Steps(reads))
        program.trainer.fit(program.model, program.datamodule)
    logged = {4, 5, 8, 9}  # the bar shows what was logged in the next step
    assert not set(reads.found) - {0} - logged
    assert set(reads.found) & logged  # or nothing was watched

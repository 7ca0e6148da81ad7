"""Do the scripts that make the tables and pictures of the docs still run?"""

from pathlib import Path

import pytest
from support.jobs import CHECKPOINT
from support.paths import OVERLAYS


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """As many threads as cores in each of several processes would wait for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_objectives(capsys):
    from objectives import OBJECTIVES, compare_objectives

    compare_objectives(max_epochs=1, num_points=100)
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in OBJECTIVES)
    (exact,) = (line for line in table.splitlines() if line.startswith("| none: the exact score"))
    assert exact.endswith("| 0.0000 |  |")


def test_samplers(trained, capsys):
    from samplers import compare_samplers, samplers

    compare_samplers(trained("digits") / CHECKPOINT, num_samples=2)
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in samplers(0.03))
    assert Path("samplers.png").is_file()


def test_exact_sampling(capsys):
    from exact_sampling import measure

    measure(num_samples=50, num_steps=2)
    table = capsys.readouterr().out
    assert "| moons | 5 |" in table
    assert "| mixture | 0.1 |" in table
    assert Path("exact_sampling.png").is_file()


def test_few_evaluations(capsys):
    from few_evaluations import FLOW, LONG, NOISY, measure, read

    options = {"evaluations": (3, 4), "num_samples": 32, "blocks": 2}
    measure(("flow", "moons"), **options)
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in FLOW | NOISY)
    rows = read(Path("few_evaluations.csv"))
    some = ("iPNDM-4, fitted", "SA-Solver 2/2")
    measure(("moons", "digits"), samplers=some, **options)
    more = read(Path("few_evaluations.csv"))
    assert more[: len(rows)] == rows  # of which none is measured again
    assert len(more) == len(rows) + 1 + 2 * len(some)
    assert LONG not in {row.sampler for row in more}
    assert Path("few_evaluations.png").is_file()


def test_conditioning(trained, cli, mnist_dir):
    from conditioning import draw_conditioning

    config = OVERLAYS.parent / "mnist_classes.yaml"
    smoke = ("--config", config, "--config", OVERLAYS / "smoke.yaml")
    assert cli("fit", *smoke, "--data.data_dir", mnist_dir) == 0
    path = Path("lightning_logs/mnist_classes/version_0") / CHECKPOINT
    draw_conditioning(path, mnist_dir, num_steps=2, num_resamples=2)
    pictures = ("classes", "inpainting", "interpolation")
    assert all(Path(f"{name}.png").is_file() for name in pictures)


def test_inverse(capsys):
    from inverse import measure, rows

    few = {"num_measurements": 2, "num_samples": 8, "num_steps": 40, "training_steps": 2}
    measure(dims=[2], noises=[0.5], learned_dims=[2], **few)
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in rows(40, 1.0))
    for heading in ("Gaussian prior, exact", "mixture prior, exact", "mixture prior, learned"):
        assert f"{heading} score: excess negative log posterior" in table
    assert len(Path("inverse.csv").read_text().splitlines()) == 1 + 3 * 2 * len(rows(40, 1.0))
    assert Path("inverse.png").is_file()


def test_inverse_images(capsys):
    from inverse_images import measure, methods

    measure(num_images=2, num_compared=16, num_steps=2)
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in methods(1.0))
    assert table.count("| *floor: test images* |") == 4
    assert Path("restored_digits_right_half_hidden.png").is_file()


def test_training_speed(mnist_dir, capsys):
    from training_speed import measure

    measure(mnist_dir, rounds=1, seconds_each=0.1, configs=("mnist_cpu",))
    assert "| U-Net of mnist_cpu.yaml, " in capsys.readouterr().out


def test_gpu_report(mnist_dir, capsys):
    from gpu_report import DEVICE, NEEDS_GPU, report

    tiny = {"epochs": 1, "max_seconds": 0.1, "seconds_each": 0.1, "num_samples": 16}
    small = ("--model.network.filters=8", "--trainer.accelerator=cpu")
    report(mnist_dir, ("mnist_cpu",), **tiny, batch_size=2, size=64, options=small)
    page = Path("gpu_report.md").read_text()
    for heading in ("The card", "Training speed", "Sampling", "Synchronisation", "Records"):
        assert f"## {heading}\n" in page
    rows = [line for line in page.splitlines() if line.startswith("| `mnist_cpu.yaml` |")]
    assert len(rows) == 6
    assert page.count(NEEDS_GPU) == (0 if DEVICE.type == "cuda" else 5)
    assert "## Records" in capsys.readouterr().out


def test_sampling_speed(capsys):
    from sampling_speed import measure

    measure(num_samples=2, steps_per_level=1, rounds=1, configs=("mnist_cpu",))
    assert "| U-Net of mnist_cpu.yaml |" in capsys.readouterr().out


def test_startup(capsys):
    from startup import COMMANDS, FIRST_LINE, measure

    measure(rounds=1, whole=False)
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in (FIRST_LINE, *COMMANDS))


def test_records(capsys):
    from records import HEADING, measure
    from shared import ROOT

    cheap = ("--trainer.accelerator=cpu", "--model.network.filters=8")
    lengths = {"epochs": (0.2, 0.4), "seeds": (0, 1), "every": 0.001}
    measure(("digits",), num_samples=32, options=cheap, **lengths)
    table = Path("records.md").read_text()
    assert table in capsys.readouterr().out
    assert Path("records.png").is_file()
    assert table.count("| `digits.yaml` | 0.2 | ") == table.count(" | 0.4 | ") == 2
    page = (ROOT / "docs/results/records.md").read_text()
    assert f"| {' | '.join(HEADING)} |" in page


def test_levers(mnist_dir, capsys):
    from levers import Setting, measure

    tiny = {"num_images": 8, "batch_size": 2, "network": {"filters": 8}, "bf16": False}
    measure(mnist_dir, Setting(**tiny, stable=4, weight=1.0, log_variance=True), seeds=(0, 1))
    measure(mnist_dir, Setting(**tiny, optimizer="adam", scheduler="trapezoid"))
    table = capsys.readouterr().out
    assert table.count("| 0 | ") == 2
    assert table.count("| 1 | ") == 1


def test_the_seconds_to_a_threshold_are_those_of_the_first_point_below_it():
    from records import Point, seconds_to

    from ncsn.evaluation.estimate import Estimate

    values = [None, 9.0, 4.0, 4.5, 3.0]
    fds = [v and Estimate("FD", v, None, 1.0, None, "lower") for v in values]
    points = [Point(10.0 * k, 100 * k, fd) for k, fd in enumerate(fds)]
    assert seconds_to(points, 4.0) == "20 (200)"
    assert seconds_to(points, 2.0) == "not reached (3.0 at 40 s)"
    assert seconds_to(points[:1], 2.0) == "not reached (not finite at 0 s)"


def test_scaling(capsys, monkeypatch):
    import scaling

    monkeypatch.setattr(scaling, "VALUES", {"batch": [1, 2], "filters": [4, 8]})
    monkeypatch.setattr(
        scaling, "DEFAULT", {"batch": 1, "filters": 4, "blocks": 1, "size": 8, "levels": 2}
    )
    scaling.measure()
    assert "batch · pixels · blocks · filters²" in capsys.readouterr().out
    assert Path("scaling.png").is_file()


def test_peers_training(mnist_dir, capsys):
    from peers import PEERS, installed
    from peers_training import measure

    some = ("ncsn", "azula", "torchcfm")
    measure(some, mnist_dir, seconds=(1, 2), num_samples=32, num_curve=16)
    table = capsys.readouterr().out
    for name in some:
        here = name == "ncsn" or installed(name, PEERS[name].requires)
        assert (f"| {name} |" in table) is here
        assert (f"{name} skipped: " in table) is not here
    assert table.count("| ncsn |") == 2  # a training for each time
    assert Path("peers_training.png").is_file()
    assert Path("peers_training.md").read_text() in table


def test_peers_sampling(mnist_dir, capsys):
    from peers import installed
    from peers_sampling import SAMPLERS, measure

    measure(evaluations=(3,), data_dir=mnist_dir, num_samples=16)
    table = capsys.readouterr().out
    for name, (requires, _) in SAMPLERS.items():
        assert (f"| {name} |" in table) is installed(name, requires)
    assert Path("peers_sampling.png").is_file()


def test_peers_use(capsys):
    from peers import PEERS, installed
    from peers_use import measure

    measure(("azula",), num_steps=1)
    row = "| azula | trains on; 100% of the weights are not finite |"
    assert (row in capsys.readouterr().out) is installed("azula", PEERS["azula"].requires)


def test_peers_evaluation(mnist_dir, capsys):
    from peers_evaluation import measure

    measure(mnist_dir, num_samples=100)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "| " in line]
    assert any(row[1] == "SciPy" for row in rows)
    assert all(float(row[4]) < 1e-6 for row in rows[2:])  # the differences
    assert Path("peers_evaluation.md").is_file()

"""The average of the weights: its values, who sees it, and what checkpoints hold of it."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from short_runs import Probe, fit, weights_in, weights_of
from support.runs import assert_same

from ncsn.callbacks import EMA
from ncsn.callbacks.ema import decay_after
from ncsn.modules import DSM
from ncsn.networks import MLP

ACCUMULATE = pytest.mark.parametrize("accumulate", [1, 2, 3])
"""Four batches an epoch: with three, the last one is a step of its own."""


def make(**kwargs):
    return Probe(MLP(hidden_dim=8), **kwargs)


def averages(weights, decay):
    """The average after each step, from the weights after each step."""
    average, after_each = weights[0], []
    for n, step in enumerate(weights):
        d = min(decay, (1 + n) / (10 + n)) if n else 0.0
        average = d * average + (1 - d) * step
        after_each.append(average)
    return after_each


def save_steps(directory, every=1, **kwargs):
    """A callback that keeps the checkpoints of all steps."""
    return ModelCheckpoint(
        directory, filename="{step}", every_n_train_steps=every, save_top_k=-1, **kwargs
    )


def load(path):
    return torch.load(path, weights_only=True)


# ---- values ----


def test_the_decay_warms_up_to_its_value():
    assert decay_after(0, 0.9) == 0  # copies the first weights
    assert decay_after(1, 0.9) == pytest.approx(2 / 11)
    assert decay_after(10, 0.9) == pytest.approx(11 / 20)
    assert decay_after(1000, 0.9) == 0.9
    assert decay_after(1, 0.1) == 0.1


@ACCUMULATE
def test_the_average_is_that_of_the_weights_after_each_step(accumulate):
    module, ema = make(), EMA(0.3)  # the warm-up ends after three steps
    trainer = fit(module, epochs=4, callbacks=[ema], accumulate_grad_batches=accumulate)
    steps = {1: 4, 2: 2, 3: 2}[accumulate]
    assert len(module.after_steps) == 4 * steps
    assert ema.n_averaged == trainer.global_step == 4 * steps
    expected = averages(module.after_steps, 0.3)[steps - 1 :: steps]
    for seen, average in zip(module.validated_with, expected, strict=True):
        torch.testing.assert_close(seen, average)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match=r"ema\.decay must be in \[0, 1\)"):
        EMA(decay)


# ---- who sees it ----


@ACCUMULATE
def test_a_validation_sees_the_average_and_training_continues_with_its_own_weights(
    accumulate,
):
    module = make()
    trainer = fit(module, epochs=3, callbacks=[EMA(0.9)], accumulate_grad_batches=accumulate)
    steps = trainer.global_step // 3
    for epoch, seen in enumerate(module.validated_with):
        own = module.after_steps[(epoch + 1) * steps - 1]
        assert not torch.allclose(seen, own)
    # The weights change in steps of the optimizer, and nowhere else.
    changes = [
        not torch.equal(*pair)
        for pair in zip(module.before_batches, module.before_batches[1:], strict=False)
    ]
    assert sum(changes) == 3 * steps - 1
    starts = [module.before_batches[0], *module.after_steps[:-1]]
    for weights in module.before_batches:
        assert any(torch.equal(weights, start) for start in starts)


def test_the_sanity_check_before_the_training_sees_the_weights():
    module = make()
    before = weights_of(module)
    fit(module, callbacks=[EMA(0.9)], num_sanity_val_steps=1)
    assert torch.equal(module.validated_with[0], before)
    assert torch.equal(module.before_batches[0], before)


def test_the_trained_module_holds_the_average():
    module = make()
    fit(module, epochs=2, callbacks=[EMA(0.9)])
    assert torch.equal(weights_of(module), module.validated_with[-1])
    torch.testing.assert_close(weights_of(module), averages(module.after_steps, 0.9)[-1])


def test_validating_a_checkpoint_after_the_training_sees_that_checkpoint(tmp_path):
    module = make()
    trainer = fit(module, epochs=2, callbacks=[EMA(0.9), save_steps(tmp_path)])
    trainer.validate(datamodule=trainer.datamodule, ckpt_path=tmp_path / "step=4.ckpt")
    stored = load(tmp_path / "step=4.ckpt")["state_dict"]
    assert torch.equal(module.validated_with[-1], weights_in(stored, module))


def test_decay_zero_leaves_everything_alone(tmp_path):
    runs = {}
    for name, callbacks in {"without": [], "zero": [EMA(0)]}.items():
        torch.manual_seed(0)
        module = make()
        fit(module, epochs=2, callbacks=[*callbacks, save_steps(tmp_path / name)])
        checkpoint = load(tmp_path / name / "step=8.ckpt")
        assert "current_model_state" not in checkpoint
        assert torch.equal(module.validated_with[0], module.after_steps[3])
        assert torch.equal(weights_of(module), module.after_steps[-1])
        runs[name] = checkpoint["state_dict"], checkpoint["optimizer_states"]
    assert callbacks[0].n_averaged == 0
    assert_same(runs["without"], runs["zero"])


class CountingMLP(MLP):
    """Counts its calls in training, in a buffer."""

    def __init__(self):
        super().__init__(hidden_dim=8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, sigma):
        if self.training:
            self.calls += 1
        return super().forward(x, sigma)


def test_buffers_of_the_network_are_not_averaged(tmp_path):
    module = DSM(CountingMLP())
    fit(module, epochs=2, callbacks=[EMA(0.9), save_steps(tmp_path)])
    checkpoint = load(tmp_path / "step=8.ckpt")
    for state in ("state_dict", "current_model_state"):
        assert checkpoint[state]["network.calls"] == 8
    assert module.network.calls == 8


class ForbidsCopies:
    """An optimizer that can be neither copied nor pickled, like those of a command line."""

    def __call__(self, parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    def __reduce_ex__(self, protocol):
        raise TypeError("this must not be copied")


def test_the_average_copies_no_optimizer():
    module = make(optimizer=ForbidsCopies())
    fit(module, epochs=2, callbacks=[EMA(0.9)])
    torch.testing.assert_close(weights_of(module), averages(module.after_steps, 0.9)[-1])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_module_made_in_python_can_be_copied_and_pickled(duplicate):
    module = DSM(MLP(hidden_dim=8))
    fit(module, callbacks=[EMA(0.9)])
    x, sigma = torch.randn(5, 2), torch.rand(5)
    assert torch.equal(duplicate(module).score(x, sigma), module.score(x, sigma))


# ---- checkpoints ----


@pytest.mark.parametrize("moment", ["epoch", "validation"])
def test_a_checkpoint_holds_the_average_and_the_weights(tmp_path, moment):
    module = make()
    save = ModelCheckpoint(
        tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=moment == "epoch"
    )
    fit(module, epochs=3, callbacks=[EMA(0.9), save])
    for epoch in range(3):
        checkpoint = load(tmp_path / f"epoch={epoch}.ckpt")
        average, weights = checkpoint["state_dict"], checkpoint["current_model_state"]
        assert average.keys() == weights.keys() == module.state_dict().keys()
        assert torch.equal(weights_in(average, module), module.validated_with[epoch])
        assert torch.equal(weights_in(weights, module), module.after_steps[4 * epoch + 3])
        assert checkpoint["callbacks"]["EMA"] == {"n_averaged": 4 * epoch + 4}


def test_a_checkpoint_written_when_the_training_has_ended_holds_the_weights(tmp_path):
    module = make()
    trainer = fit(module, epochs=2, callbacks=[EMA(0.9), save_steps(tmp_path, every=100)])
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    checkpoint = load(tmp_path / "end.ckpt")
    average, weights = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert torch.equal(weights_in(average, module), weights_of(module))
    assert torch.equal(weights_in(weights, module), module.after_steps[-1])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_has_exactly_the_weights_and_the_average_of_an_undisturbed_one(
    tmp_path, accumulate
):
    total = 12 // accumulate
    undisturbed, ema = make(), EMA(0.9)
    save = save_steps(tmp_path / "undisturbed")
    options = {"epochs": 3, "accumulate_grad_batches": accumulate}
    fit(undisturbed, callbacks=[ema, save], **options)

    torch.manual_seed(1)  # other initial weights
    resumed, second_ema = make(), EMA(0.9)
    middle = tmp_path / "undisturbed" / f"step={total // 2}.ckpt"  # in the middle of an epoch
    callbacks = [second_ema, save_steps(tmp_path / "resumed")]
    fit(resumed, callbacks=callbacks, ckpt_path=middle, **options)

    assert len(resumed.after_steps) == total // 2
    assert ema.n_averaged == second_ema.n_averaged == total
    assert torch.equal(weights_of(resumed), weights_of(undisturbed))
    for step in range(total // 2 + 1, total + 1):
        first, second = (
            load(tmp_path / name / f"step={step}.ckpt") for name in ("undisturbed", "resumed")
        )
        for part in ("state_dict", "current_model_state", "optimizer_states"):
            assert_same(first[part], second[part], part)
        assert first["callbacks"]["EMA"] == second["callbacks"]["EMA"] == {"n_averaged": step}


def test_a_run_that_resumes_with_decay_zero_continues_without_an_average(tmp_path):
    first, second = make(), make()
    fit(first, callbacks=[EMA(0.9), save_steps(tmp_path)])
    ema = EMA(0)
    fit(
        second, epochs=2, callbacks=[ema, save_steps(tmp_path)], ckpt_path=tmp_path / "step=4.ckpt"
    )
    assert torch.equal(second.before_batches[0], first.after_steps[-1])
    assert torch.equal(second.validated_with[-1], second.after_steps[-1])
    assert torch.equal(weights_of(second), second.after_steps[-1])
    assert "current_model_state" not in load(tmp_path / "step=8.ckpt")


def test_the_average_of_half_precision_weights_does_not_freeze():
    # A step of 0.001 (1 - 0.5) is lost in bfloat16, whose numbers near 0.5 are 0.004 apart.
    module, ema = make().bfloat16(), EMA(0.999)
    parameter = next(module.network.parameters())
    trainer = SimpleNamespace(global_step=0)
    ema.n_averaged = 10**6  # after the warm-up
    torch.nn.init.constant_(parameter, 0.5)
    ema.on_train_start(trainer, module)
    torch.nn.init.constant_(parameter, 1.0)
    for step in range(1, 2001):
        trainer.global_step = step
        ema.on_train_batch_end(trainer, module)
    expected = torch.full(parameter.shape, 1 - 0.5 * 0.999**2000)
    torch.testing.assert_close(ema._average[0], expected, rtol=1e-3, atol=0)

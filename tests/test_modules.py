import pytest
import torch
from torch import nn

from ncsn.modules import DSM, NCSN
from ncsn.networks import MLP
from ncsn.noise import Stream, seeded_generator
from ncsn.sampling import Langevin


class Linear(nn.Linear):
    """nn.Linear(2, 2) as a score network that ignores the noise level."""

    def forward(self, x, sigma):
        return super().forward(x)


@pytest.mark.parametrize("make", [DSM, NCSN])
def test_shapes_of_losses_and_samples(make):
    module = make(Linear(2, 2), sampler=Langevin(step_size=1e-4, num_steps=3))
    x = torch.randn(8, 2)
    assert module.loss(x, reduction="none").shape == x.shape
    assert module.loss(x).shape == ()
    assert module.sample(4).shape == (4, 2)
    assert module.score(x, torch.ones(8)).shape == x.shape


def test_loss_is_the_weighted_one_of_the_paper():
    # sigma² / sigma_max² |s + z / sigma|², summed over dimensions; here s = -x.
    module = NCSN(Linear(2, 2), sigma_min=0.1, sigma_max=2.0, num_levels=4)
    nn.init.zeros_(module.network.bias)
    module.network.weight.data = -torch.eye(2)
    x, sigma = torch.randn(5, 2), module.noise_levels[[0, 1, 2, 3, 3]]
    generator = seeded_generator(Stream.TRAINING, 1)
    loss = module.loss(x, sigma, reduction="none", generator=generator)
    z = torch.empty(5, 2).normal_(generator=seeded_generator(Stream.TRAINING, 1))
    s = sigma[:, None]
    expected = s**2 / 2.0**2 * (-(x + s * z) + z / s) ** 2
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


def test_ncsn_draws_all_levels_alike():
    module = NCSN(Linear(2, 2), num_levels=10)
    levels = module.sample_noise_levels(10_000, seeded_generator(Stream.TRAINING, 0))
    counts = torch.stack([(levels == level).sum() for level in module.noise_levels])
    chi_square = ((counts - 1000.0) ** 2 / 1000).sum().item()
    assert counts.sum() == 10_000
    assert chi_square < 33.7  # 9 degrees of freedom: a false alarm in 10,000


def test_dsm_has_one_level():
    module = DSM(Linear(2, 2), sigma=0.3)
    assert module.noise_levels.tolist() == pytest.approx([0.3])
    assert module.sample_noise_levels(3).tolist() == pytest.approx([0.3] * 3)


def test_one_validation_gives_the_same_number_as_the_next():
    module = NCSN(MLP(hidden_dim=8), num_levels=5)
    batches = [(torch.randn(16, 2), torch.zeros(16)) for _ in range(3)]

    def validate():
        module.val_loss.reset()
        for i, batch in enumerate(batches):
            module.validation_step(batch, i)
        return module.val_loss.compute()

    first = validate()
    torch.randn(100)  # whatever else draws in between
    assert first.shape == (5,)
    assert torch.equal(first, validate())


def test_ranks_epochs_and_batches_have_their_own_noise(monkeypatch):
    seen = {}
    for rank in (0, 1):
        for epoch in (0, 1):
            for batch in (0, 1):
                module = NCSN(Linear(2, 2))
                nn.init.zeros_(module.network.weight)
                nn.init.zeros_(module.network.bias)
                monkeypatch.setattr(NCSN, "global_rank", rank)
                monkeypatch.setattr(NCSN, "current_epoch", epoch)
                module.log = lambda *args, **kwargs: None
                x = torch.zeros(64, 2), torch.zeros(64)
                seen[rank, epoch, batch] = module.training_step(x, batch).item()
                again = module.training_step(x, batch).item()
                assert again == seen[rank, epoch, batch]
    assert len(set(seen.values())) == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCSN(Linear(2, 2), sigma_min=2.0, sigma_max=1.0), "sigma_min=2.0"),
        (lambda: NCSN(Linear(2, 2), num_levels=0), "num_levels"),
        (lambda: DSM(Linear(2, 2), sigma=-1.0), "sigma_max=-1.0"),
        (lambda: DSM(Linear(2, 2), ema_decay=1.0), "ema_decay"),
    ],
)
def test_impossible_modules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

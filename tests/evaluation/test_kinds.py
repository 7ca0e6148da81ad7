"""What an image or a point is: how it is stored, and what is done with it."""

import io
import math
import re
import tokenize

import pytest
import torch
from support.paths import ROOT
from torchvision.transforms.functional import pil_to_tensor

from ncsn.evaluation import Model, Reference, Trajectory, kind_of
from ncsn.evaluation.codec import to_float, to_uint8
from ncsn.evaluation.images import Images
from ncsn.evaluation.points import Points
from ncsn.exact import GaussianMixture
from ncsn.levels import geometric


def test_the_shape_of_an_example_tells_its_kind():
    for shape in ((1, 28, 28), (3, 8, 8), torch.Size([1, 2, 2])):
        assert isinstance(kind_of(shape), Images)
    for shape in ((2,), (1,), (784,), torch.Size([5])):
        assert isinstance(kind_of(shape), Points)


# ---- images ----


def test_all_256_grey_values_survive_decoding_and_encoding():
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = Images()
    decoded = images.decode(grey)
    assert decoded.dtype == torch.float32
    assert (decoded.min(), decoded.max()) == (-1, 1)
    assert torch.equal(images.encode(decoded), grey)


def test_encoded_is_x_over_2_plus_a_half_clamped():
    values = torch.tensor([-5.0, -1.0, 0.0, 1.0, 5.0])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255]
    assert to_float(to_uint8(values)).tolist() == pytest.approx([-1, -1, 0, 1, 1], abs=1 / 127.5)


def test_a_grid_of_a_hundred_samples_of_ten_classes_has_a_row_for_each():
    label = torch.arange(100) % 10
    samples = (label / 9 * 2 - 1).view(100, 1, 1, 1).expand(100, 1, 64, 64)
    (grid,) = Images().draw_samples(samples, label).values()
    above = grid.height - grid.width  # the caption
    centres = pil_to_tensor(grid)[0, above + 33 :: 66, 33::66].int()
    assert (centres == centres[:, :1]).all()
    assert centres[:, 0].diff().gt(0).all()


# ---- points ----


def test_points_are_stored_as_they_are():
    x = torch.randn(10, 3)
    assert Points().encode(x) is x
    assert Points().decode(x) is x


@pytest.mark.parametrize("known", [True, False], ids=["exact", "unknown"])
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_points_of_any_dimension_are_compared_and_evaluated(dim, known):
    density = GaussianMixture(torch.randn(3, dim, dtype=torch.float64), stds=0.3)
    train, held_out, samples = (density.sample(200).float() for _ in range(3))
    exact = density if known else None
    reference = Reference(train, torch.zeros(200), held_out, exact)
    learned = GaussianMixture(density.means + density.centre, stds=0.35)
    model, kind = Model(learned, geometric(2.0, 0.1, 4)), kind_of((dim,))
    assert kind.max_samples(reference) == (math.inf if known else 200)

    compared = kind.compare(samples, reference)
    assert list(compared) == ["sliced_wasserstein", "energy_distance", "mmd"]
    for estimate in compared.values():
        assert estimate.value >= 0
        assert estimate.floor >= 0

    with torch.no_grad():
        estimates, levels, pictures = kind.evaluate(model, samples, reference)
        drawn = kind.draw_samples(samples, None, reference, model)
    assert compared == {name: estimates[name] for name in compared}
    assert ("excess_loss" in estimates) == known
    assert len(levels) == (4 if known else 0)
    of_model = {"levels", "fields"} if dim == 2 else {"levels"}
    assert set(pictures) == (of_model if known else set())
    assert set(drawn) == ({"samples", "score"} if dim == 2 else set())
    assert kind.draw_data(reference, 10) == {}
    assert kind.draw_trajectory(Trajectory(), samples, lambda x, sigma: x) == {}


def test_points_are_compared_although_fewer_are_in_the_training_data_than_held_out():
    x = torch.randn(100, 2)
    reference = Reference(x[:20], torch.zeros(20), x[20:])
    num = int(Points().max_samples(reference))
    assert Points().compare(torch.randn(num, 2), reference, errors=False)


@pytest.mark.parametrize("known", [True, False], ids=["exact", "unknown"])
def test_the_likelihood_of_points_is_in_nats(known):
    density = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), stds=0.5)
    x = density.sample(100)
    nll = -density.log_density(x, torch.zeros(100))
    reference = Reference(x, torch.zeros(100), x, density if known else None)
    estimates = Points().likelihood(nll + 0.25, x, reference)
    assert estimates["nll"].value == pytest.approx(nll.mean().item() + 0.25)
    assert ("excess_nll" in estimates) == known
    if known:
        assert estimates["nll"].floor == pytest.approx(nll.mean().item())
        assert estimates["excess_nll"].value == pytest.approx(0.25)
        assert estimates["excess_nll"].standard_error == pytest.approx(0, abs=1e-6)


# ---- the one place that knows ----


def code_of(path):
    """The source without comments and strings, one space between tokens."""
    left_out = {tokenize.COMMENT, tokenize.STRING}
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return " ".join(token.string for token in tokens if token.type not in left_out)


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        (r"/ 127 ?\.5\b", "evaluation/codec.py"),
        (r"len \( [\w. ]*shape \) [=!]= 3", "evaluation/kinds.py"),
    ],
    ids=["codec", "kind"],
)
def test_what_an_image_is_is_known_in_one_place(pattern, place):
    found = {
        str(path.relative_to(ROOT / "ncsn")): len(re.findall(pattern, code_of(path)))
        for path in (ROOT / "ncsn").rglob("*.py")
    }
    assert {path: count for path, count in found.items() if count} == {place: 1}

"""Linear measurements: adjoints by the dot-product test, and solutions of their equations."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ncsn.levels import expand_as
from ncsn.sampling import (
    Blur,
    Downsampling,
    HiddenBox,
    LinearOperator,
    Mask,
    Matrix,
    RandomMask,
    RandomProjection,
    SubsampledFourier,
)
from ncsn.sampling.linear import conjugate_gradients


class Differences(LinearOperator):
    """A reader's own: it says what A x is, and no more."""

    def __call__(self, x):
        return x[..., 1:] - x[..., :-1]


OPERATORS = {
    "mask": Mask((1, 4, 6), torch.arange(24).view(4, 6) % 3 > 0),
    "mask of a point": Mask((5,), torch.tensor([True, False, True, True, False])),
    "hidden box": HiddenBox((3, 4, 6), top=1, left=2, height=2, width=3),
    "random mask": RandomMask((2, 4, 6), share=0.3),
    "frequencies": SubsampledFourier((2, 4, 6), share=0.5),
    "frequencies of a signal": SubsampledFourier((7,), share=0.6),
    "downsampling": Downsampling((3, 4, 6), factor=2),
    "blur": Blur((2, 4, 6), std=0.6),
    "blur of a signal": Blur((7,), std=0.8),
    "matrix": Matrix((5,), torch.randn(3, 5, generator=torch.Generator().manual_seed(0))),
    "projection": RandomProjection((1, 4, 6), num=9),
    "own": Differences((1, 4, 6)),
}
each_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def data_and_measurement(operator, num=3):
    """Random tensors of the shapes of x and of y, in float64."""
    shapes = operator.shape, operator.measured
    return (torch.randn(num, *shape, dtype=torch.float64) for shape in shapes)


def dot(u, v):
    """One inner product an example."""
    return (u * v).flatten(1).sum(1)


@each_operator
def test_the_adjoint_passes_the_dot_product_test(operator):
    x, y = data_and_measurement(operator)
    assert operator(x).shape == y.shape
    assert operator.adjoint(y).shape == x.shape
    torch.testing.assert_close(dot(operator(x), y), dot(x, operator.adjoint(y)))


@each_operator
def test_an_operator_is_linear(operator):
    x, _ = data_and_measurement(operator)
    u, _ = data_and_measurement(operator)
    torch.testing.assert_close(operator(2 * x - u), 2 * operator(x) - operator(u))


@each_operator
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_solve_divides_by_the_covariance(operator, noise):
    _, y = data_and_measurement(operator)
    sigma = torch.tensor([0.0, 0.7, 3.0], dtype=torch.float64)
    u = operator.solve(y, noise, sigma)
    back = noise**2 * u + expand_as(sigma, y) ** 2 * operator(operator.adjoint(u))
    # Eigenvalues below 1e-6 count as 1e-6, where σ² / noise² is 225 at most.
    torch.testing.assert_close(back, y, rtol=0, atol=1e-3)
    # And so do conjugate gradients, for operators that do not write it down.
    torch.testing.assert_close(
        LinearOperator.solve(operator, y, noise, sigma), u, atol=2e-2, rtol=0
    )


@each_operator
def test_without_noise_the_pseudo_inverse_has_the_same_measurement(operator):
    x, _ = data_and_measurement(operator)
    y = operator(x)
    pseudo_inverse = operator.adjoint(operator.solve(y, 0.0, x.new_ones(3)))
    torch.testing.assert_close(operator(pseudo_inverse), y, rtol=0, atol=1e-2)


@each_operator
def test_a_measurement_has_noise_of_the_given_size(operator):
    x = torch.zeros(2000, *operator.shape)
    n = operator.measure(x, 0.3, torch.Generator().manual_seed(0))
    assert abs(n.std().item() / 0.3 - 1) < 5 / (2 * n.numel()) ** 0.5


def test_frequencies_are_those_of_the_fourier_transform_in_pairs():
    operator = OPERATORS["frequencies"]
    x, _ = data_and_measurement(operator)
    kept = torch.zeros(2 * 4 * 6, dtype=torch.bool)
    kept[operator.rows] = True
    kept = kept.view(2, 4, 6)
    assert kept[:, 0, 0].all()  # the mean
    mirrored = kept.flip(1, 2).roll((1, 1), (1, 2))
    assert torch.equal(kept, mirrored)
    zero_filled = torch.fft.ifft2(kept * torch.fft.fft2(x)).real
    torch.testing.assert_close(operator.adjoint(operator(x)), zero_filled)


def test_downsampling_takes_means_and_blur_keeps_them():
    x = torch.randn(2, 3, 4, 6)
    means = OPERATORS["downsampling"](x)
    torch.testing.assert_close(means[0, 0, 0, 0], x[0, 0, :2, :2].mean())
    torch.testing.assert_close(Blur((3, 4, 6), 2.0)(x).mean((2, 3)), x.mean((2, 3)))
    impulse = torch.zeros(1, 1, 16, 16)
    impulse[..., 8, 8] = 1
    row = Blur((1, 16, 16), 1.5)(impulse)[0, 0].sum(0)
    variance = (row * (torch.arange(16) - 8) ** 2).sum().item()
    assert variance == pytest.approx(1.5**2, rel=1e-3)


def test_conjugate_gradients_solve_each_example_on_its_own():
    # In as many iterations as the matrix has eigenvalues, and a solved example stays as it is.
    matrix = torch.diag(torch.tensor([1.0, 1.0, 4.0, 9.0], dtype=torch.float64))
    b = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 0.0, 0.0, 0.0], [0.0] * 4], dtype=torch.float64)
    expected = torch.linalg.solve(matrix, b.T).T
    for iterations in (3, 50):
        x = conjugate_gradients(lambda v: v @ matrix, b, iterations)
        torch.testing.assert_close(x, expected)
    alone = conjugate_gradients(lambda v: v @ matrix, b[:1], 2)
    assert torch.equal(conjugate_gradients(lambda v: v @ matrix, b, 2)[:1], alone)


def test_conjugate_gradients_stop_where_the_matrix_is_not_what_it_is_said_to_be():
    # The second and the third have a direction in which the matrix is below its lower bound.
    b = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 3.0], [0.0, 0.0, 4.0]], dtype=torch.float64)
    for low in (-1.0, 0.0, 0.05):
        matrix = torch.diag(torch.tensor([1.0, 4.0, low], dtype=torch.float64))
        x = conjugate_gradients(lambda v, matrix=matrix: v @ matrix, b, 50, smallest=0.1)
        torch.testing.assert_close(x[0], torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
        assert x.abs().max() < 10 * b.abs().max()  # an eigenvalue of 0.1 would give as much
        assert torch.equal(x[2], torch.zeros(3, dtype=torch.float64))


def test_conjugate_gradients_stop_at_zero_to_rounding():
    # Two equal rows with measurements that differ a little, without noise.
    matrix, b = torch.ones(2, 2), torch.tensor([[1.0, 1.001]])
    x = conjugate_gradients(lambda v: v @ matrix, b, 50)
    torch.testing.assert_close(x @ matrix, torch.full((1, 2), 1.0005), rtol=1e-4, atol=0)
    assert x.abs().max() < 10


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_a_measurement_in_another_unit_is_solved_in_it(unit):
    operator = Matrix((3,), torch.tensor([[1.0, 0.5, 0.0], [0.0, 1e-2, 1.0]]))
    scaled = Matrix((3,), unit * operator.matrix)
    y, sigma = torch.randn(2, 2), torch.tensor([0.1, 3.0])
    for noise in (0.0, 1e-3):
        u = operator.solve(y, noise, sigma)
        torch.testing.assert_close(unit * scaled.solve(unit * y, unit * noise, sigma), u)


def test_a_mask_is_read_from_a_file(tmp_path):
    import numpy as np

    known = np.array([True, False, True])
    np.save(tmp_path / "known.npy", known)
    operator = Mask((3,), str(tmp_path / "known.npy"))
    assert operator(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[1.0, 3.0]]
    (tmp_path / "text.npy").write_text("text")
    with pytest.raises(ValueError, match=r"text\.npy is not an array"):
        Mask((3,), str(tmp_path / "text.npy"))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Mask((1, 4, 4), torch.ones(3, 3)), r"\(3, 3\), and the data has \(1, 4, 4\)"),
        (lambda: Mask((3,), torch.zeros(3)), "no value that is measured"),
        (lambda: HiddenBox((1, 4, 4)), "must hide a part of 4x4 pixels"),
        (lambda: HiddenBox((1, 4, 4), left=3, width=2), "left=3"),
        (lambda: HiddenBox((5,)), "is for images"),
        (lambda: RandomMask((5,), share=0.0), r"share of RandomMask must be in \(0, 1\]"),
        (lambda: SubsampledFourier((5,), share=1.5), "share of SubsampledFourier"),
        (lambda: Downsampling((1, 28, 28), 3), "divide 28x28 pixels, got 3"),
        (lambda: Downsampling((2,), 2), "is for images"),
        (lambda: Blur((1, 4, 4), 0.0), "std must be a positive number"),
        (lambda: RandomProjection((1, 4, 4), 17), "from 1 to the 16 values"),
        (lambda: Matrix((3,), torch.ones(2, 4)), r"\(num, 3\), got \(2, 4\)"),
    ],
)
def test_operators_that_do_not_fit_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


class Copies(TorchDispatchMode):
    """Counts copies from the CPU to another device."""

    num = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type != "cpu":
            given = [each for each in args if isinstance(each, torch.Tensor) and each.ndim]
            self.num += any(each.device.type == "cpu" for each in given)
        return result


@each_operator
def test_nothing_is_copied_to_the_device_while_samples_are_drawn(operator):
    moved = operator.on("meta")
    x, sigma = (torch.zeros(3, *shape, device="meta") for shape in (operator.shape, ()))
    for each, copied in ((operator, True), (moved, False)):
        with Copies() as copies:
            each.solve(each(each.adjoint(each(x))), 0.1, sigma)
        has_tensors = any(isinstance(value, torch.Tensor) for value in vars(operator).values())
        assert bool(copies.num) == (copied and has_tensors)

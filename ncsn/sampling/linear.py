"""Linear measurements y = A x + s n with n ~ N(0, I).

An operator A is a class that says what A x is. The rest follows: Aᵀ by automatic differentiation,
and (s² I + σ² A Aᵀ)⁻¹ by conjugate gradients::

    class Differences(LinearOperator):
        def __call__(self, x):
            return x[..., 1:] - x[..., :-1]

Those of this package, here and in :mod:`ncsn.sampling.operators`, write all three down. Operators
work on batches: examples ``(batch, *shape)``, measurements ``(batch, *measured)``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from typing import Self

import torch
from torch import Tensor

from ncsn.config import Configured
from ncsn.levels import expand_as
from ncsn.random import Generator, normal_like

SMALLEST = 1e-6
"""Without noise, eigenvalues of A Aᵀ below this share of the largest count as that."""


class LinearOperator(Configured, ABC):
    """Base class: a linear map of examples.

    Args:
        shape: Shape of an example.

    Attributes:
        selects: Whether A x picks values of x, so that a measurement can be given as an x.
    """

    selects = False
    iterations = 100
    """Of conjugate gradients in :meth:`solve`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x, shape ``(batch, *measured)``, for ``x`` of shape ``(batch, *shape)``."""

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y, shape ``(batch, *shape)``."""
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.zeros(len(y), *self.shape, dtype=y.dtype, device=y.device)
            x.requires_grad_()
            (adjoint,) = torch.autograd.grad(self(x), x, y.clone())
        return adjoint

    def solve(self, y: Tensor, noise: float, sigma: Tensor) -> Tensor:
        """(noise² I + σ² A Aᵀ)⁻¹ y: y over its covariance, for noise in x and in y.

        Args:
            y: Shape ``(batch, *measured)``.
            noise: Standard deviation of the noise in y, >= 0.
            sigma: That of the noise in x, shape ``(batch,)``; not zero where ``noise`` is.
        """
        squares = expand_as(sigma, y) ** 2

        def covariance(v: Tensor) -> Tensor:
            return noise**2 * v + squares * self(self.adjoint(v))

        return conjugate_gradients(covariance, y, self.iterations)

    def measure(self, x: Tensor, noise: float, generator: Generator = None) -> Tensor:
        """Draw y = A x + noise · n."""
        y = self(x)
        return y + noise * normal_like(y, generator)

    def on(self, device: torch.device) -> Self:
        """This operator with its tensors on a device, so that none is copied while it samples."""
        moved = copy(self)
        tensors = {name: each for name, each in vars(self).items() if isinstance(each, Tensor)}
        vars(moved).update({name: each.to(device) for name, each in tensors.items()})
        return moved

    @property
    def measured(self) -> tuple[int, ...]:
        """Shape of a measurement."""
        return tuple(self(torch.zeros(1, *self.shape)).shape[1:])


class Matrix(LinearOperator):
    """Any matrix.

    Args:
        shape: Shape of an example, of D values.
        matrix: A, shape ``(num, D)``.
    """

    def __init__(self, shape: tuple[int, ...], matrix: Tensor) -> None:
        super().__init__(shape)
        dim = math.prod(self.shape)
        if matrix.ndim != 2 or matrix.shape[1] != dim:
            raise ValueError(f"matrix must have shape (num, {dim}), got {tuple(matrix.shape)}")
        self.matrix = matrix.double()
        self.eigenvalues, self.basis = torch.linalg.eigh(self.matrix @ self.matrix.T)

    def __call__(self, x: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        return x.flatten(1) @ self.matrix.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        return (y @ self.matrix.to(y)).view(-1, *self.shape)

    def solve(self, y: Tensor, noise: float, sigma: Tensor) -> Tensor:
        """See :class:`LinearOperator`."""
        basis = self.basis.to(y)
        variances = measured_variances(noise, expand_as(sigma, y), self.eigenvalues.to(y))
        return y @ basis / variances @ basis.T


class RandomProjection(Matrix):
    """Inner products with random vectors, of the mean square length 1.

    Args:
        shape: Shape of an example.
        num: Number of vectors, from 1 to the number of values.
        seed: Seed of the choice.
    """

    def __init__(self, shape: tuple[int, ...], num: int, seed: int = 0) -> None:
        dim = math.prod(shape)
        if not 1 <= num <= dim:
            raise ValueError(f"num must be from 1 to the {dim} values of an example, got {num}")
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(num, dim, generator=generator, dtype=torch.float64)
        super().__init__(shape, vectors / dim**0.5)


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int, smallest: float = 0.0
) -> Tensor:
    """Solve M x = b for a symmetric positive definite M, each example on its own.

    Source: Hestenes & Stiefel 1952, "Methods of Conjugate Gradients for Solving Linear Systems".

    Args:
        matrix: M times a tensor of the shape of ``b``.
        b: Shape ``(batch, *event)``.
        iterations: At most; an example stays as it is once it is solved to rounding, or where M
            turns out to have an eigenvalue below the smallest, or zero to rounding.
        smallest: A lower bound of the eigenvalues of M.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return expand_as((u * v).flatten(1).sum(1), u)

    x, r, p = torch.zeros_like(b), b, b
    squares, eps = dot(r, r), torch.finfo(b.dtype).eps
    solved, largest = eps**2 * squares, torch.zeros_like(squares)
    going = squares > 0
    for _ in range(iterations):
        product = matrix(p)
        curvature, length = dot(p, product), dot(p, p)
        largest = torch.maximum(largest, curvature / length.clamp(min=torch.finfo(b.dtype).tiny))
        least = (eps * largest).clamp(min=smallest)
        going = going & (squares > solved) & (curvature > least * length)
        alpha = torch.where(going, squares / curvature, 0)
        x, r = x + alpha * p, r - alpha * product
        squares, previous = dot(r, r), squares
        p = r + torch.where(going, squares / previous, 0) * p
    return x


def measured_variances(noise: float, sigma: Tensor, eigenvalues: Tensor) -> Tensor:
    """The variances noise² + σ² λ of a measurement, in the basis in which they are known."""
    if not noise:  # so that none is zero
        eigenvalues = torch.maximum(eigenvalues, SMALLEST * eigenvalues.max())
    return noise**2 + sigma**2 * eigenvalues.clamp(min=0)

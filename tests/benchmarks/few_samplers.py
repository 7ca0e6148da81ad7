"""The samplers of few_evaluations.py, by name: of each number of evaluations and a ladder."""

from collections.abc import Callable

from torch import Tensor

from ncsn.levels import Ladder, Rho, geometric
from ncsn.random import Generator, normal_like
from ncsn.sampling import (
    IPNDM,
    Ancestral,
    DPMSolver,
    Euler,
    Heun,
    PredictorCorrector,
    Sampler,
    SASolver,
)
from ncsn.sampling.base import LevelScore

Make = Callable[[int, Ladder], Sampler]
"""Makes a sampler of a number of evaluations, given a fitted ladder."""


class Restart(DPMSolver):
    """DPM-Solver++(2M) that adds the noise of ``high`` again at ``low``, twice.

    Source: Xu et al. 2023, "Restart sampling for improving generative processes" (arXiv
    2306.14878), algorithm 1, with a fifth of the evaluations for each way down from ``high``.
    """

    def __init__(self, num_evaluations: int, high: float, low: float) -> None:
        self.high, self.low, self.again = high, low, max(1, num_evaluations // 5)
        super().__init__(num_evaluations - 2 * self.again)

    def path(self, noise_levels: Tensor) -> list[float]:
        """The ladder, with two more ways from ``high`` to its first level below ``low``."""
        ladder = super().path(noise_levels)
        k = next(k for k, sigma in enumerate(ladder) if sigma <= self.low)
        again = geometric(self.high, ladder[k], self.again + 1).tolist()
        return [*ladder[: k + 1], *again, *again, *ladder[k + 1 :]]

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """A step of DPM-Solver++, or one up, which takes no evaluation."""
        if sigma_next < sigma:
            return super().step(score, x, sigma, sigma_next, generator)
        self._last = None
        return x + (sigma_next**2 - sigma**2) ** 0.5 * normal_like(x, generator)


FLOW: dict[str, Make] = {
    "Euler (DDIM)": lambda num, fitted: Euler(num),
    "Heun, rho 7": lambda num, fitted: Heun((num + 1) // 2, ladder=Rho(7)),
    "DPM-Solver++(2M)": lambda num, fitted: DPMSolver(num),
    "DPM-Solver++(2M), fitted": lambda num, fitted: DPMSolver(num, ladder=fitted),
    "iPNDM-4, rho 7": lambda num, fitted: IPNDM(num, ladder=Rho(7)),
    "iPNDM-4, fitted": lambda num, fitted: IPNDM(num, ladder=fitted),
    "SA-Solver 3/3 without noise": lambda num, fitted: SASolver(num, 0.0, 3, 3),
}
"""Samplers that follow the probability flow, by evaluations and a fitted ladder."""

NOISY: dict[str, Make] = {
    "ancestral": lambda num, fitted: Ancestral(num),
    "predictor-corrector": lambda num, fitted: PredictorCorrector((num + 1) // 2),
    "SDE-DPM-Solver++(2M)": lambda num, fitted: DPMSolver(num, eta=1.0),
    "SDE-DPM-Solver++(2M), eta 2": lambda num, fitted: DPMSolver(num, eta=2.0),
    "SDE-DPM-Solver++(2M), fitted": lambda num, fitted: DPMSolver(num, eta=1.0, ladder=fitted),
    "SA-Solver 2/2": lambda num, fitted: SASolver(num, 1.0, 2, 2),
    "SA-Solver 3/3": lambda num, fitted: SASolver(num, 1.0, 3, 3),
}
"""Those that add noise."""

OTHERS: dict[str, Make] = (
    {
        f"SDE-DPM-Solver++(2M), eta {eta:g}": lambda num, fitted, eta=eta: DPMSolver(num, eta=eta)
        for eta in (1.25, 1.5, 2.5)
    }
    | {
        f"SDE-DPM-Solver++(2M), rho {rho}, eta {eta:g}": (
            lambda num, fitted, rho=rho, eta=eta: DPMSolver(num, eta=eta, ladder=Rho(rho))
        )
        for rho, eta in ((3, 1.5), (7, 1.5), (7, 2.0))
    }
    | {"SA-Solver 2/2, eta 2": lambda num, fitted: SASolver(num, 2.0, 2, 2)}
    | {
        f"restarts, {low:g} to {high:g}": (
            lambda num, fitted, high=high, low=low: Restart(num, high, low)
        )
        for low, high in ((0.1, 1.0), (0.3, 2.0), (0.5, 5.0))
    }
)
"""More ways to add noise, also on other ladders, which are measured if they are named."""

ALL = FLOW | NOISY | OTHERS

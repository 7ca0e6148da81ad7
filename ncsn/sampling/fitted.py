"""A ladder fitted to a score, for samplers that take few steps."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from ncsn.levels import Listed, Rho, ScoreFunction
from ncsn.sampling.flow import Heun


@torch.no_grad()
def fit_ladder(
    score: ScoreFunction,
    x: Tensor,
    noise_levels: Tensor,
    num_levels: int,
    num_candidates: int = 60,
    growth: float = 1.15,
) -> Listed:
    """The levels between which Euler's steps stay nearest to the probability flow, by Chen et al.

    Trajectories of the flow are followed with small steps. The cost of a step from one of their
    levels to another is how far Euler's step ends from the trajectory, and dynamic programming
    finds the descent of least cost. An error counts ``growth`` times as much with each step that
    is taken before, since errors add up. Trajectories are much alike, so 256 are enough.

    Source: Chen et al. 2024, "On the Trajectory Regularity of ODE-based Diffusion Sampling"
    (GITS, arXiv 2405.11326), algorithm 1.

    Args:
        score: The score function.
        x: Starting points, shape ``(num, *event)``: noise of the largest level.
        noise_levels: The ladder of training, descending, whose ends are kept.
        num_levels: Number of levels of the fitted ladder, at least 2.
        num_candidates: Levels of the trajectories, from which those of the ladder are taken. Of
            memory, it takes as many times that of ``x``.
        growth: See above, > 0.

    Returns:
        A ladder for ``num_levels`` levels. As an option of the command line, it is
        ``--model.sampler.ladder=ncsn.levels.Listed --model.sampler.ladder.levels=[...]``.

    Raises:
        ValueError: If a number is outside its domain.
    """
    if not 2 <= num_levels <= num_candidates:
        raise ValueError(
            f"num_levels must be from 2 to num_candidates={num_candidates}, got {num_levels}"
        )
    if not 0 < growth < math.inf:
        raise ValueError(f"growth must be a positive number, got {growth}")
    teacher, states = Heun(num_candidates, denoise=False, ladder=Rho(7)), [x]
    levels = teacher.path(noise_levels)
    teacher(score, x, noise_levels, monitor=lambda _, state: states.append(state))
    costs = torch.full((num_candidates, num_candidates), math.inf, dtype=torch.float64)
    for i, sigma in enumerate(levels[:-1]):
        slope = -sigma * score(states[i], x.new_full((len(x),), sigma))
        for j in range(i + 1, num_candidates):
            error = states[i] + (levels[j] - sigma) * slope - states[j]
            costs[i, j] = error.flatten(1).norm(dim=1).mean()
    return Listed([levels[i] for i in cheapest_path(costs, num_levels - 1, growth)])


def cheapest_path(costs: Tensor, num_steps: int, growth: float) -> list[int]:
    """The cheapest path from the first node to the last in exactly ``num_steps`` steps.

    Args:
        costs: Of a step from node i to node j, shape ``(n, n)``; infinite where there is none.
        num_steps: Number of steps, at least 1.
        growth: The cost of step k counts ``growth``^k times.

    Returns:
        The nodes, ``num_steps + 1`` of them.
    """
    rest, ways = costs[:, -1], []  # the least cost from each node to the last, step by step back
    for _ in range(num_steps - 1):
        rest, way = (costs + growth * rest).min(dim=1)
        ways.append(way.tolist())
    path = [0]
    for way in reversed(ways):
        path.append(way[path[-1]])
    path.append(len(costs) - 1)
    assert all(i < j for i, j in pairwise(path))
    return path

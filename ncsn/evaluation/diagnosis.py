"""Is it the network or the solver? What keeps samples from the data.

Two things do: the network's score is not exact, and the solver takes finitely many steps. Where
the exact score is known, samples by it tell them apart: how far they are from the data is the
solver's error, and how much farther the network's samples are is the network's. Elsewhere, other
solvers that take more care, at four times the cost, have to do: what one of them gains is the
solver's fault, and what none of them removes is the network's.

The two need not agree. Langevin dynamics that takes more care comes closer to the density of the
network, which may be farther from the data: then another solver gains what the exact score shows
to be the network's fault.
"""

import math
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from ncsn import plots
from ncsn.evaluation.estimate import Estimate, Estimates, estimate_mean
from ncsn.evaluation.kinds import Kind, Model, Pictures, Reference
from ncsn.evaluation.metrics import measure_field, measure_levels
from ncsn.evaluation.report import Report
from ncsn.exact import Empirical, Noised
from ncsn.levels import Listed, ScoreFunction
from ncsn.random import Stream, normal_like, seeded_generator
from ncsn.sampling import Corrected, DPMSolver, MetropolisLangevin, Sampler
from ncsn.sampling.base import LadderSampler
from ncsn.sampling.langevin import epsilon_from_share
from ncsn.sampling.metropolis import metropolis_share

LIMIT = 3.0
"""Standard errors by which two numbers must differ: a false alarm once in 700 comparisons."""

RULE = (
    f"the solver is at fault if another is closer to the data by {LIMIT:g} standard errors, the "
    f"network if the closest is farther than fresh data by {LIMIT:g}"
)
RULE_OF_EXACT = (
    f"the solver is at fault if its samples by the exact score are farther than fresh data by "
    f"{LIMIT:g} standard errors; the network if the excess loss is above 0 by {LIMIT:g}, and its "
    f"samples are farther than those, or the closest than fresh data, by {LIMIT:g}"
)
EXACT = "with the exact score"  # what the sampler is called that draws with it
FAULTS = {
    (True, False): ("solver", "The solver"),
    (False, True): ("network", "The network"),
    (True, True): ("both", "Both"),
}
SMALLEST_LOSS = 1e-6  # float32's rounding


class Verdict(NamedTuple):
    """``network``, ``solver``, ``both``, ``neither`` or ``undecided``, and why, in a sentence."""

    fault: str
    sentence: str


def solvers(sampler: Sampler, noise_levels: Tensor, dim: int) -> dict[str, Sampler]:
    """The sampler and others by what they are called, each with a state of its own.

    At one noise level they do not denoise, so that there is a density that they should follow.
    """
    sampler = copy(sampler)
    sampler.denoise &= len(noise_levels) > 1
    found, path = {"the sampler": sampler}, sampler.path(noise_levels)
    if (finer := _refine(sampler, noise_levels)) is not None:
        found["4 times the steps"] = finer
    corrector = MetropolisLangevin(  # about as many evaluations as 4 times the steps
        max(1, (len(path) - 1) // len(set(path[1:]))),
        epsilon_from_share(metropolis_share(dim), noise_levels[0].item()),
    )
    found["with a corrector"] = Corrected(sampler, corrector)
    if len(noise_levels) > 1:
        found["SDE-DPM-Solver++, 100 steps"] = DPMSolver(100, eta=1.0, denoise=sampler.denoise)
    return found


def _refine(sampler: Sampler, noise_levels: Tensor) -> Sampler | None:
    """The sampler with 4 times the steps, if it says how many it takes, and can take more."""
    finer = copy(sampler)
    if isinstance(finer, Corrected) and (predictor := _refine(finer.predictor, noise_levels)):
        finer.predictor = predictor
        return finer
    steps: Any = finer  # a sampler of a user's own may count them, or not
    if hasattr(finer, "steps_per_level"):
        steps.steps_per_level *= 4
    elif getattr(finer, "num_steps", None):
        steps.num_steps *= 4
    elif not (isinstance(finer, LadderSampler) and hasattr(finer, "num_steps")):
        return None
    else:
        finer.num_steps = 4 * (len(noise_levels) - 1) + 1
        if finer.ladder is None:  # that of the training, with three levels between any two
            logs = noise_levels.double().log()[None, None]
            logs = F.interpolate(logs, finer.num_steps, mode="linear", align_corners=True)
            finer.ladder = Listed(logs.exp().flatten().tolist())
    with suppress(ValueError):  # a list of levels has no finer one
        finer.path(noise_levels)
        return finer
    return None


def target(reference: Reference, kind: Kind, sigma: float) -> Reference:
    """The reference noised at a level, for samples that are not denoised."""
    train, held_out = (
        kind.encode(x + sigma * normal_like(x, seeded_generator(Stream.NOISED_DATA, i)))
        for i, x in enumerate(map(kind.decode, (reference.train, reference.held_out)), 1)
    )
    exact = reference.exact and Noised(reference.exact, sigma)
    return replace(reference, train=train, held_out=held_out, exact=exact)


def diagnose(
    model: Model,
    samples: dict[str, Tensor],
    samplers: dict[str, Sampler],
    kind: Kind,
    reference: Reference,
    about: dict[str, Any],
) -> tuple[Report, Pictures]:
    """Compare samples of several solvers with the data, and look at the network's score.

    Args:
        model: The score function and its ladder.
        samples: Of each of the ``samplers``, which are those of :func:`solvers`.
        samplers: After their calls.
        kind: What an example is.
        reference: The data.
        about: What the report says of the model.

    Raises:
        ValueError: If samples are not finite, or too few.
    """
    first = samplers["the sampler"]
    compared, about = reference, about | kind.notes(reference)
    about |= {"sampler": str(first), "num_evaluations": first.num_evaluations}
    if not first.denoise:
        sigma = model.noise_levels[-1].item()
        compared = target(reference, kind, sigma)
        about["compared_with"] = f"data noised at {sigma:.4g}, since samples are not denoised"
    distances = {}
    for name, x in track(samples.items(), "Comparing"):
        distances[name] = kind.distance(x, compared)
    levels, network, excess = _measure_network(model, kind, reference)
    title = distances["the sampler"].title
    verdict = decide(title, distances, excess)
    estimates = {
        name.replace(" ", "_"): replace(each, title=_describe(title, name, samplers))
        for name, each in distances.items()
    }
    rule = RULE_OF_EXACT if EXACT in samples else RULE
    about |= {"fault": verdict.fault, "verdict": verdict.sentence, "rule": rule}
    pictures: Pictures = {}
    with plots.optional("picture diagnosis"):
        points = {name: (each.value, each.standard_error or 0) for name, each in distances.items()}
        floor = distances["the sampler"]
        ends = floor.floor or 0, floor.floor_standard_error or 0
        pictures["diagnosis"] = plots.plot_diagnosis(levels, points, ends, title)
    return Report(about, estimates | network, levels), pictures


def decide(title: str, distances: Estimates, excess: Estimate | None = None) -> Verdict:
    """Whose fault it is, by :data:`RULE_OF_EXACT`, or by :data:`RULE` without the exact score.

    Args:
        title: What the distance is called.
        distances: By solver: ``the sampler``, others, and perhaps :data:`EXACT`.
        excess: The excess loss, where the exact score is known.
    """
    base, exact = distances["the sampler"], distances.get(EXACT)
    others = [item for item in distances.items() if item[0] != EXACT]
    name, best = min(others, key=lambda item: item[1].value)
    gain, rest, start = _errors_between(base, best), _errors_between(best), _errors_between(base)
    floor = f"{start:.1f} SE above its floor of {base.formatted_floor}"
    is_base = f"{title} is {base.formatted}, {floor}"
    is_best = f"the closest is {best.formatted} ({name})"
    if exact is not None and excess is not None:
        worse, over = _errors_between(base, exact), _errors_between(exact)
        loss = excess.value > max(SMALLEST_LOSS, LIMIT * _error(excess))
        faults = over > LIMIT, loss and (worse > LIMIT or rest > LIMIT)
        facts = f"{is_base}, and {exact.formatted} {EXACT}, {over:.1f} SE above it; {is_best}"
    else:
        faults = gain > LIMIT, rest > LIMIT
        facts = f"{is_base}; {is_best}, {gain:.1f} SE less and {rest:.1f} SE above it"
    nothing = ("undecided", "Undecided, more samples may tell")
    if start <= LIMIT:
        nothing = ("neither", "Neither, to this accuracy")
    fault, text = FAULTS.get(faults, nothing)
    return Verdict(fault, f"{text}: {facts} (SE: standard errors).")


def _error(estimate: Estimate) -> float:
    return estimate.standard_error or 0


def _errors_between(high: Estimate, low: Estimate | None = None) -> float:
    """How far a value is above another, or above its floor, in standard errors.

    Those are added as if independent. The two share data and noise, so this errs to the safe side.
    """
    if low is None:
        value, error = high.floor or 0, high.floor_standard_error or 0
    else:
        value, error = low.value, _error(low)
    difference, error = high.value - value, math.hypot(_error(high), error)
    return difference / error if error else math.inf * difference if difference else 0


def _describe(title: str, name: str, samplers: dict[str, Sampler]) -> str:
    """What was measured: a solver with its cost, and the acceptance of its corrector."""
    sampler = samplers[name]
    text = f"{title if name == 'the sampler' else 'the same'}, {name}"
    text += f" ({sampler.num_evaluations:,} evaluations"
    if sampler.acceptance:
        rates = [rate.item() for rate in sampler.acceptance.values()]
        text += f", {sum(rates) / len(rates):.2f} accepted"
    return text + ")"


def _measure_network(
    model: Model, kind: Kind, reference: Reference
) -> tuple[list[dict[str, float]], Estimates, Estimate | None]:
    """The loss with its bracket, curl and divergence at each level; their summary; the excess."""
    device, dim = model.noise_levels.device, reference.held_out[0].numel()
    held_out = kind.decode(reference.held_out[: max(64, min(2000, 2**18 // dim))].to(device))
    references: dict[str, ScoreFunction] = {}
    if reference.exact is not None:
        references["exact"] = reference.exact.to(device)
    else:
        for name, part in (("train", reference.train), ("test", reference.held_out)):
            references[f"empirical_{name}"] = Empirical(kind.decode(part.to(device)))
    levels, excess = measure_levels(model.score, references, held_out, model.noise_levels)
    field = measure_field(model.score, held_out[:512], model.noise_levels)
    levels = [loss | row for loss, row in zip(levels, field, strict=True)]
    found: Estimates = {}
    if excess is not None:
        title = "excess loss per dim., mean of levels"
        found["excess_loss"] = estimate_mean(title, excess, excess.new_zeros(excess.shape))
    else:
        above = sum(
            row["loss"] - LIMIT * row["loss_standard_error"]
            > max(row["empirical_train"], row["empirical_test"])
            for row in levels
        )
        title = f"levels with a loss above the bracket, of {len(levels)}"
        found["above_bracket"] = Estimate(title, float(above), None, 0.0, 0.0, "lower")
    for name, title in (("curl", "curl"), ("stein_residual", "Stein residual")):
        row = max(levels, key=lambda row: abs(row[name]) - row[f"{name}_standard_error"])
        title = f"{title}, largest of levels (σ = {row['sigma']:.3g})"
        error = row[f"{name}_standard_error"]
        found[name] = Estimate(title, row[name], error, 0.0, 0.0, "floor")
    return levels, found, found.get("excess_loss")

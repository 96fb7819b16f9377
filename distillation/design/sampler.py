"""Choice of the next candidate by Optuna: a multi-objective, constraint-aware TPE over what was measured so far.

The study is built in memory from the candidates each time: their rows are the only record (docs/decisions/0029). It
minimises size and time and maximises the score of the first rung, where all candidates had the same training; a cost
over its limit is a violated constraint. No combination of parameters is chosen twice.
"""

import random
import warnings
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from distillation.design.candidates import Candidate, Params
from distillation.design.limits import Limits
from distillation.design.space import ORDERED, Space

# Of size, time and the score of the first rung.
DIRECTIONS = (StudyDirection.MINIMIZE, StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE)
RANDOM = 8  # candidates drawn at random before TPE's model is used, if the time allows many more
TRIES = 20  # proposals of the model before one of the remaining combinations is drawn uniformly

optuna.logging.set_verbosity(optuna.logging.WARNING)


def choose(
    space: Space,
    candidates: Sequence[Candidate],
    limits: Limits,
    *,
    seed: int,
    startup: int = RANDOM,
) -> Params | None:
    """Return the next candidate's parameters; None if none are left. The first candidate is the recipe itself.

    startup: number of measured candidates before TPE's model is used.
    """
    taken = {_key(candidate.params) for candidate in candidates}
    first = space.first()
    if _key(first) not in taken and space.fits(first):
        return first
    axes = {name: _distribution(name, values) for name, values in space.axes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of `multivariate`
        sampler = optuna.samplers.TPESampler(
            seed=seed + len(candidates), multivariate=True, n_startup_trials=startup
        )
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    study.add_trials(
        [_trial(one, space, axes, limits) for one in candidates if space.fits(one.params)]
    )
    for _ in range(TRIES):
        trial = study.ask(dict(axes))
        params = {name: space.axes[name][_place(trial.params[name])] for name in axes}
        if space.fits(params) and _key(params) not in taken:
            return params
        study.tell(trial, state=TrialState.FAIL)
    left = [params for params in space.everything() if _key(params) not in taken]
    return random.Random(seed + len(candidates)).choice(left) if left else None


def _trial(
    candidate: Candidate,
    space: Space,
    axes: dict[str, BaseDistribution],
    limits: Limits,
) -> FrozenTrial:
    """Return the candidate as a trial of Optuna."""
    places = {name: space.axes[name].index(candidate.params[name]) for name in axes}
    params = {
        name: str(place) if isinstance(axes[name], CategoricalDistribution) else place
        for name, place in places.items()
    }
    costs = candidate.costs
    if candidate.refused:
        return optuna.create_trial(state=TrialState.FAIL, params=params, distributions=axes)
    if costs is None or (costs.are_within(limits) and not candidate.rungs):
        return optuna.create_trial(state=TrialState.RUNNING, params=params, distributions=axes)
    # A candidate over a limit was never trained and has no score; only its excess counts.
    score = candidate.rungs[0].score if candidate.rungs else 0.0
    return optuna.create_trial(
        values=[float(costs.size), costs.time or 0.0, score],
        params=params,
        distributions=axes,
        constraints=costs.excess(limits),
    )


def _distribution(name: str, values: Sequence[str | int]) -> BaseDistribution:
    """Return a distribution over the indices of the values: integer for ordered ones, else categorical."""
    if name in ORDERED:
        return IntDistribution(0, len(values) - 1)
    return CategoricalDistribution([str(place) for place in range(len(values))])


def _place(value: str | int) -> int:
    return int(value)


def _key(params: Params) -> tuple[tuple[str, str | int], ...]:
    return tuple(sorted(params.items()))

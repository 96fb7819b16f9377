"""Recipes of rungs."""

from distillation.design import rungs
from distillation.design.halving import SHARES
from distillation.pipeline.recipes import ONE_STEP, RECIPES


def test_a_short_distillation_has_a_share_of_every_training():
    short = rungs.short(ONE_STEP, 1 / 10)

    assert short.structure.steps == 150 and short.regression.steps == 220
    assert short.joint.steps == 350 and short.decoder.steps == 800
    assert short.quantise.steps == 0 and short.pairs == ONE_STEP.pairs
    assert short.decoder.warmup <= 80
    assert rungs.short(RECIPES["sd15-tiny-1step"], 1 / 10).matching is None


def test_further_rungs_add_up_to_the_recipes_steps():
    short = rungs.short(ONE_STEP, SHARES[0])
    first = short.structure.steps + short.regression.steps + short.joint.steps
    later = [
        rungs.longer(short, ONE_STEP, SHARES[rung] - SHARES[rung - 1]).joint.steps
        for rung in range(1, len(SHARES))
    ]

    assert first + sum(later) in range(7198, 7203)  # 1500 + 2200 + 3500
    assert later[0] < later[1] < later[2]


def test_the_shortest_share_still_trains():
    tiny = rungs.short(ONE_STEP, 1e-9)

    assert tiny.decoder.steps == tiny.joint.steps == 2 and tiny.joint.warmup == 0

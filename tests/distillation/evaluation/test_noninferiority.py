import pytest
import torch

from distillation.evaluation import noninferiority
from distillation.evaluation.noninferiority import (
    INCONCLUSIVE,
    INFERIOR,
    NON_INFERIOR,
    NOT_MEASURED,
    Margins,
    Verdict,
)


def right_pictures(rate: float | torch.Tensor, *, prompts: int, seeds: int = 4, seed: int = 0):
    """Return 0 or 1, [P, S]: right with the probability `rate` of all prompts, or [P, 1] of each."""
    drawn = torch.rand(prompts, seeds, generator=torch.Generator().manual_seed(seed))
    return (drawn < rate).double()


def by_measure(found: tuple[Verdict, ...]) -> dict[str, Verdict]:
    return {verdict.measure: verdict for verdict in found}


def of_attributes(student: torch.Tensor, teacher: torch.Tensor) -> Verdict:
    found = noninferiority.judge(Margins(None, None, None, None, None), right=(student, teacher))
    assert found == ()
    return by_measure(noninferiority.judge(Margins(), right=(student, teacher)))["attributes_right"]


# --- attributes -----------------------------------------------------------------------------------
def test_an_equal_student_on_enough_prompts_is_non_inferior():
    teacher = right_pictures(0.9, prompts=256)
    student = teacher.clone()
    student[::64, 0], student[1::64, 1] = 0, 1  # some lost, as many won
    verdict = of_attributes(student, teacher)
    assert verdict.outcome == NON_INFERIOR and verdict.prompts == 256
    assert verdict.low <= verdict.estimate <= verdict.high
    assert verdict.estimate == pytest.approx(float(student.mean() / teacher.mean()))


def test_a_clearly_worse_student_is_inferior():
    verdict = of_attributes(
        right_pictures(0.6, prompts=256, seed=1), right_pictures(0.9, prompts=256)
    )
    assert verdict.outcome == INFERIOR
    assert verdict.estimate == pytest.approx(2 / 3, abs=0.05)


def test_few_prompts_are_inconclusive_even_if_all_pictures_are_equal():
    teacher = right_pictures(0.9, prompts=noninferiority.MIN_PROMPTS - 1)
    assert of_attributes(teacher, teacher).outcome == INCONCLUSIVE
    enough = right_pictures(0.9, prompts=noninferiority.MIN_PROMPTS)
    assert of_attributes(enough, enough).outcome == NON_INFERIOR


def test_a_student_near_the_margin_is_inconclusive():
    found = of_attributes(
        right_pictures(0.86, prompts=40, seed=1), right_pictures(0.88, prompts=40)
    )
    assert found.outcome == INCONCLUSIVE and found.low < 0.97 < found.high


def test_pairing_by_prompt_narrows_the_interval():
    rates = torch.linspace(0.05, 1, 60)[:, None]
    teacher = right_pictures(rates, prompts=60, seeds=8)
    paired = of_attributes(teacher, teacher)
    unpaired = of_attributes(teacher[torch.randperm(60)], teacher)
    assert paired.outcome == NON_INFERIOR
    assert unpaired.high - unpaired.low > 0.1  # the same pictures under other prompts


def test_an_interval_is_over_prompts_and_not_over_pictures():
    """Sixteen equal pictures of a prompt have no more information than one."""
    one = right_pictures(0.8, prompts=60, seeds=1, seed=2), right_pictures(0.8, prompts=60, seeds=1)
    many = tuple(values.repeat(1, 16) for values in one)
    once, often = of_attributes(*one), of_attributes(*many)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_the_one_sided_interval_misses_an_equal_student_about_once_in_twenty(monkeypatch):
    """Of two releases with the same rates the lower end lies above 1 in about 5 % of the experiments."""
    monkeypatch.setattr(noninferiority, "RESAMPLES", 400)
    missed = 0
    for number in range(150):
        student, teacher = (
            right_pictures(0.7, prompts=40, seed=2 * number + side).mean(1) for side in (0, 1)
        )
        verdict = noninferiority._verdict(
            "attributes_right", True, 1.0, noninferiority._ratio, [student, teacher]
        )
        missed += verdict.low > 1
    assert 1 <= missed <= 18  # 7.5 are expected


def test_prompts_without_a_value_are_left_out():
    teacher = right_pictures(0.9, prompts=60)
    student = teacher.clone()
    student[:20] = float("nan")
    teacher[:20] = float("nan")
    assert of_attributes(student, teacher).prompts == 40


# --- the worst prompts ----------------------------------------------------------------------------
def test_prompts_that_collapse_are_found_although_the_mean_hides_them():
    teacher = right_pictures(0.9, prompts=200, seeds=8)
    student = teacher.clone()
    student[::20] = 0  # 5 % of the prompts lose all
    found = by_measure(
        noninferiority.judge(Margins(attributes_right=0.9), right=(student, teacher))
    )
    assert found["attributes_right"].outcome == NON_INFERIOR
    assert found["worst_prompts"].outcome == INFERIOR
    # A tenth of the prompts: half of them lose 0.9, the others nothing.
    assert found["worst_prompts"].estimate == pytest.approx(-0.45, abs=0.05)


def test_chance_alone_does_not_make_a_worst_tenth():
    rates = 0.7
    student, teacher = (right_pictures(rates, prompts=400, seeds=8, seed=side) for side in (0, 1))
    verdict = by_measure(noninferiority.judge(Margins(), right=(student, teacher)))["worst_prompts"]
    chosen_by_itself = (student - teacher).mean(1).sort().values[:40].mean()
    assert float(chosen_by_itself) < -0.3
    assert abs(verdict.estimate) < 0.1


@pytest.mark.parametrize(
    ("estimate", "low", "high", "margin", "seeds", "outcome"),
    [
        (-0.068, -0.137, -0.005, -0.1, 19, NON_INFERIOR),  # starter-student-2
        (-0.127, -0.230, -0.023, -0.1, 60, INFERIOR),  # starter-student
        (-0.097, -0.200, -0.010, -0.1, None, None),  # 4,700: not worth advising
        (-0.15, -0.22, -0.08, -0.1, 8, INFERIOR),
        (-0.1, -0.2, 0.0, -0.1, None, None),
    ],
)
def test_the_seeds_that_would_decide_follow_from_the_interval(
    estimate, low, high, margin, seeds, outcome
):
    verdict = Verdict("worst_prompts", False, margin, estimate, low, high, 256, INCONCLUSIVE)
    found = noninferiority.decisive(verdict, 4)
    assert (None if found is None else (found.seeds, found.outcome)) == (
        None if seeds is None else (seeds, outcome)
    )


def test_the_advised_number_of_seeds_narrows_the_interval_as_predicted():
    """With the advised number of seeds the interval is about as narrow as predicted."""
    rates = torch.full((200, 1), 0.8)
    teacher = right_pictures(rates, prompts=200, seeds=64, seed=1)
    student = right_pictures(rates, prompts=200, seeds=64, seed=2)
    first = of_attributes(student[:, :4], teacher[:, :4])
    assert first.outcome == INCONCLUSIVE
    advised = noninferiority.decisive(first, 4)
    assert advised is not None and 4 < advised.seeds <= 64
    many = of_attributes(student[:, : advised.seeds], teacher[:, : advised.seeds])
    assert many.high - many.low < 1.3 * (first.high - first.low) * (4 / advised.seeds) ** 0.5


def test_a_prompt_that_lost_more_than_the_limit_is_inconclusive():
    teacher = torch.ones(30, 4)
    student = teacher.clone()
    student[7] = 0.0
    found = noninferiority.each_prompt(-0.6, (student, teacher))
    assert (found.outcome, found.estimate) == (INCONCLUSIVE, -1.0)
    student[7] = 0.5
    assert noninferiority.each_prompt(-0.6, (student, teacher)).outcome == NON_INFERIOR
    silent = torch.full((30, 4), torch.nan)
    assert noninferiority.each_prompt(-0.6, (silent, silent)).outcome == NOT_MEASURED


def test_with_one_seed_the_worst_prompts_are_not_measured():
    values = right_pictures(0.9, prompts=50, seeds=1)
    found = noninferiority.judge(Margins(), right=(values, values))
    assert by_measure(found)["worst_prompts"].outcome == NOT_MEASURED


# --- the others, and all together -----------------------------------------------------------------
def test_collapsed_diversity_is_inferior():
    generator = torch.Generator().manual_seed(0)
    teacher = 0.2 + 0.05 * torch.rand(64, generator=generator)
    student = 0.5 * teacher + 0.02 * torch.rand(64, generator=generator)
    found = by_measure(noninferiority.judge(Margins(), spread=(student, teacher)))["diversity"]
    assert found.outcome == INFERIOR and found.estimate == pytest.approx(0.54, abs=0.03)


def test_a_difference_may_have_a_margin_below_zero():
    teacher = 25 + torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    margins = Margins(clip_score=-1)
    for loss, outcome in ((0.2, NON_INFERIOR), (2.0, INFERIOR)):
        found = by_measure(noninferiority.judge(margins, clip_score=(teacher - loss, teacher)))
        assert found["clip_score"].outcome == outcome
        assert found["clip_score"].estimate == pytest.approx(-loss, abs=1e-5)


def test_a_blurred_student_is_inferior_by_its_mean_gradient():
    teacher = 4 + torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
    for ratio, outcome in ((0.95, NON_INFERIOR), (0.7, INFERIOR)):
        found = by_measure(noninferiority.judge(Margins(), gradient=(ratio * teacher, teacher)))
        assert found["sharpness"].outcome == outcome
        assert found["sharpness"].estimate == pytest.approx(ratio, abs=1e-5)


def test_the_overall_outcome_is_the_worst_one():
    def found(*outcomes: str) -> list[Verdict]:
        return [Verdict("diversity", True, 0.8, 1, 1, 1, 30, outcome) for outcome in outcomes]

    assert noninferiority.overall(found(NON_INFERIOR, NON_INFERIOR)) == NON_INFERIOR
    assert noninferiority.overall(found(NON_INFERIOR, INCONCLUSIVE, INFERIOR)) == INFERIOR
    assert noninferiority.overall(found(NON_INFERIOR, INCONCLUSIVE)) == INCONCLUSIVE
    assert noninferiority.overall(found(NON_INFERIOR, NOT_MEASURED)) == INCONCLUSIVE
    assert noninferiority.overall([]) == INCONCLUSIVE


def test_unmeasured_margins_are_listed_and_margins_of_none_are_not():
    found = noninferiority.judge(Margins(worst_prompts=None, clip_score=None))
    assert {v.measure: v.outcome for v in found} == {
        "attributes_right": NOT_MEASURED,
        "diversity": NOT_MEASURED,
        "sharpness": NOT_MEASURED,
    }


def test_a_teacher_that_is_never_right_gives_no_ratio():
    student, teacher = right_pictures(0.5, prompts=30), torch.zeros(30, 4)
    verdict = of_attributes(student, teacher)
    assert verdict.outcome == NOT_MEASURED and verdict.estimate is None


@pytest.mark.parametrize(
    ("name", "value"), [("attributes_right", 0.0), ("diversity", -1.0), ("worst_prompts", 2.0)]
)
def test_invalid_margins_are_refused(name: str, value: float):
    with pytest.raises(ValueError, match=name):
        Margins(**{name: value})

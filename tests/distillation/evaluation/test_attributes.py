import pytest
import torch

from distillation.evaluation import attributes

BITS = ("vase", "bowl", "mug", "red", "blue", "signed")
GROUPS = (3, 2, 1)
HALF = torch.full((6,), 0.5)


def bits(*words: str) -> torch.Tensor:
    return torch.tensor([bit in words for bit in BITS])


def judged(rows: list[list[float]], *, wanted: tuple[str, ...], stated: tuple[str, ...]):
    return attributes.groups_right(
        torch.tensor(rows),
        wanted=bits(*wanted),
        stated=bits(*stated),
        groups=GROUPS,
        thresholds=HALF,
    ).tolist()


def test_the_likeliest_bit_of_a_group_counts_whatever_its_threshold():
    rows = [
        [0.4, 0.1, 0.1, 0.9, 0.1, 0.0],  # a vase, though not above ½
        [0.8, 0.9, 0.1, 0.9, 0.1, 0.0],  # a vase is there; a bowl is likelier
        [0.9, 0.1, 0.1, 0.2, 0.3, 0.0],  # blue
    ]
    found = judged(rows, wanted=("vase", "red"), stated=("vase", "bowl", "mug", "red", "blue"))
    assert found == [[True, True, True], [False, True, True], [True, False, True]]


def test_a_bit_without_a_group_is_judged_by_its_threshold():
    rows = [[0.0] * 5 + [0.6], [0.0] * 5 + [0.4]]
    assert [r[2] for r in judged(rows, wanted=("signed",), stated=("signed",))] == [True, False]
    assert [r[2] for r in judged(rows, wanted=(), stated=("signed",))] == [False, True]
    assert [r[2] for r in judged(rows, wanted=(), stated=())] == [True, True]


def test_absent_bits_are_judged_where_no_bit_of_the_group_is_wanted():
    rows = [[0.1, 0.2, 0.9, 0.0, 0.0, 0.0], [0.1, 0.9, 0.2, 0.0, 0.0, 0.0]]
    assert [r[0] for r in judged(rows, wanted=(), stated=("mug",))] == [False, True]


def test_two_bits_of_one_group_cannot_both_be_wanted():
    with pytest.raises(ValueError, match="not two"):
        judged([[0.0] * 6], wanted=("vase", "mug"), stated=("vase", "mug"))


def test_stated_groups_are_marked_and_groups_named_by_their_bits():
    stated = torch.stack([bits("mug", "red"), bits("signed"), bits()])
    assert attributes.groups_stated(stated, GROUPS).tolist() == [
        [True, True, False],
        [False, False, True],
        [False, False, False],
    ]
    assert attributes.group_names("abcdefgh", (4, 3, 1)) == ["a, b, c …", "e, f, g", "h"]


def test_margins_are_positive_where_a_group_is_right():
    rows = [
        [0.7, 0.6, 0.1, 0.2, 0.9, 0.6],
        [0.1, 0.2, 0.9, 0.9, 0.1, 0.2],
    ]
    found = attributes.margins(
        torch.tensor(rows),
        wanted=bits("vase", "red", "signed"),
        stated=bits("vase", "bowl", "mug", "red", "blue", "signed"),
        groups=GROUPS,
        thresholds=HALF,
    )
    assert found.flatten().tolist() == pytest.approx([0.1, -0.7, 0.1, -0.8, 0.8, -0.3])
    absent = attributes.margins(
        torch.tensor(rows), wanted=bits(), stated=bits("mug"), groups=GROUPS, thresholds=HALF
    )
    assert absent.flatten().tolist() == pytest.approx([0.4, 1, 1, -0.4, 1, 1])


def test_margins_are_above_zero_where_the_group_is_right():
    generator = torch.Generator().manual_seed(0)
    for wanted, stated in (
        (("vase", "red"), ("vase", "bowl", "mug", "red", "blue")),
        ((), ("mug", "signed")),
        (("signed",), ("signed",)),
    ):
        given = {
            "probabilities": torch.rand(200, len(BITS), generator=generator),
            "wanted": bits(*wanted),
            "stated": bits(*stated),
            "groups": GROUPS,
            "thresholds": HALF,
        }
        assert torch.equal(attributes.margins(**given) > 0, attributes.groups_right(**given))

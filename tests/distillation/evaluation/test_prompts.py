from dataclasses import replace

import pytest
import torch

from generation.engine.prompts.embeddings import unpack
from tests.distillation.evaluation import toys


def test_an_embedding_is_that_of_its_row():
    prompts = toys.prompts(3)
    stored = prompts.embedding(1)
    assert torch.equal(torch.tensor(unpack(stored)), prompts.prompt_embeds[1])
    assert stored.encoder_fingerprint == prompts.encoder_fingerprint
    assert prompts.take([2, 1]).embedding(1) == stored
    assert prompts.take([2, 1]).slugs == ("prompt-2", "prompt-1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("texts", ("one",)),
        ("prompt_embeds", torch.zeros(2, 4, 4)),
        ("slugs", ()),
        ("stated", torch.zeros(1, 23, dtype=torch.bool)),
    ],
)
def test_fields_that_contradict_each_other_are_refused(name: str, value: object):
    with pytest.raises(ValueError, match="one row for each prompt variant"):
        replace(toys.prompts(3), **{name: value})

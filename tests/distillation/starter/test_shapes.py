"""The meshes are closed, face outwards and stand on the ground."""

from collections import Counter

import numpy as np
import pytest

from distillation.starter import shapes
from distillation.starter.words import OBJECTS


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_faces_of_a_mesh_point_outwards_and_it_stands_on_the_ground(
    name: str, seed: int
) -> None:
    mesh = shapes.make(name, np.random.default_rng(seed))
    corners = mesh.positions[mesh.faces]
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    agreement = (outward * mesh.normals[mesh.faces].mean(axis=1)).sum(axis=1)
    assert (agreement > -1e-9).all()  # faces and normals agree
    volume = np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    assert volume > 0.1  # and point outwards
    assert abs(mesh.positions[:, 2].min()) < 1e-6
    assert 0.5 < np.ptp(mesh.positions, axis=0).max() < 2.5


@pytest.mark.parametrize("name", [name for name in OBJECTS if name != "mug"])
def test_a_mesh_is_closed_as_refraction_in_glass_requires(name: str) -> None:
    mesh = shapes.make(name, np.random.default_rng(3))
    _, same = np.unique(mesh.positions.round(6), axis=0, return_inverse=True)
    edges: Counter[tuple[int, int]] = Counter()
    for face in same.reshape(-1)[mesh.faces]:
        if len(set(face.tolist())) == 3:  # faces at the axis are degenerate
            for start, end in zip(face, np.roll(face, -1), strict=True):
                edges[int(start), int(end)] += 1
    assert all(edges[end, start] == count for (start, end), count in edges.items())


def test_proportions_follow_the_seed() -> None:
    first, second, again = (shapes.make("vase", np.random.default_rng(s)) for s in (1, 2, 1))
    assert np.array_equal(first.positions, again.positions)
    assert not np.allclose(first.positions, second.positions)

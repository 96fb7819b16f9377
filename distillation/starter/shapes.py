"""Triangle meshes of the eight objects: surfaces of revolution, a rounded cube, and a mug with a handle.

An object is about 2 units wide and stands on z = 0 around the z axis. The proportions of each are random.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEGMENTS = 96  # around the axis
ROUNDING = 6  # points per rounded corner


@dataclass(frozen=True)
class Mesh:
    """positions, normals: [V, 3]; texture: coordinates [V, 2]; faces: vertex indices [F, 3], counter-clockwise."""

    positions: Floats
    normals: Floats
    texture: Floats
    faces: NDArray[np.int64]


# --- profiles -------------------------------------------------------------------------------------
def _rounded(corners: list[tuple[float, float]], radii: list[float]) -> Floats:
    """Return a polyline [P, 2] through `corners` [(r, z)], rounded with about the given radii."""
    points = [np.array(corners[0])]
    for before, corner, after, radius in zip(
        corners, corners[1:], corners[2:], radii[1:], strict=False
    ):
        start, middle, end = np.array(before), np.array(corner), np.array(after)
        towards_start, towards_end = start - middle, end - middle
        reach = min(radius, np.linalg.norm(towards_start) * 0.5, np.linalg.norm(towards_end) * 0.5)
        first = middle + towards_start / np.linalg.norm(towards_start) * reach
        last = middle + towards_end / np.linalg.norm(towards_end) * reach
        for t in np.linspace(0, 1, ROUNDING):  # a quadratic Bézier curve
            points.append((1 - t) ** 2 * first + 2 * t * (1 - t) * middle + t**2 * last)
    points.append(np.array(corners[-1]))
    return np.array(points)


def _smooth(knots: list[tuple[float, float]], points: int = 48) -> Floats:
    """Return a Catmull–Rom curve [P, 2] through `knots` [(r, z)]."""
    given = np.array(knots)
    padded = np.vstack([2 * given[0] - given[1], given, 2 * given[-1] - given[-2]])
    curve = []
    each = max(2, points // (len(knots) - 1))
    for index in range(len(knots) - 1):
        a, b, c, d = padded[index : index + 4]
        for t in np.linspace(0, 1, each, endpoint=False):
            curve.append(
                0.5
                * (
                    2 * b
                    + (c - a) * t
                    + (2 * a - 5 * b + 4 * c - d) * t**2
                    + (3 * b - a - 3 * c + d) * t**3
                )
            )
    curve.append(given[-1])
    return np.array(curve)


def _hollow(outer: Floats, wall: float, floor: float) -> Floats:
    """Return the closed profile [P, 2] of a hollow object: bottom centre, outside to the rim, inside to the floor."""
    tangents = np.gradient(outer, axis=0)
    inward = np.stack([-tangents[:, 1], tangents[:, 0]], axis=1)
    inward /= np.linalg.norm(inward, axis=1, keepdims=True) + 1e-12
    inner = outer + inward * wall
    inner = inner[(inner[:, 1] > floor) & (inner[:, 0] > 0.02)]
    rim = (outer[-1] + inner[-1]) / 2 + np.array([0.0, wall * 0.45])  # rounds the rim
    base = outer[0]
    foot = np.array([[0.0, base[1]], [base[0] * 0.5, base[1]], [base[0] * 0.94, base[1]]])
    lowest = inner[0]
    bottom = np.array([[lowest[0] * 0.9, floor], [lowest[0] * 0.45, floor], [0.0, floor]])
    return np.vstack([foot, outer, rim[None], inner[::-1], bottom])


def _revolve(profile: Floats) -> Mesh:
    """Return the surface of revolution of a profile [(r, z)], given upwards with the outside on its right."""
    keep = np.concatenate([[True], np.linalg.norm(np.diff(profile, axis=0), axis=1) > 1e-6])
    profile = profile[keep]
    steps = np.diff(profile, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    sides = np.stack([steps[:, 1], -steps[:, 0]], axis=1) / lengths[:, None]
    normals = np.vstack([sides[:1], sides[:-1] + sides[1:], sides[-1:]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    angles = np.linspace(0, 2 * np.pi, SEGMENTS + 1)
    cosine, sine = np.cos(angles), np.sin(angles)

    def turned(curve: Floats) -> Floats:
        """Return the points or vectors [(r, z)] rotated to all angles, [V, 3]."""
        height = np.broadcast_to(curve[:, 1:], (len(curve), SEGMENTS + 1))
        return np.stack([curve[:, :1] * cosine, curve[:, :1] * sine, height], -1).reshape(-1, 3)

    texture = np.stack(np.broadcast_arrays((angles / np.pi)[None], along[:, None]), axis=-1)
    return Mesh(
        turned(profile),
        turned(normals),
        texture.reshape(-1, 2),
        _grid_faces(len(profile), SEGMENTS + 1),
    )


def _grid_faces(rows: int, columns: int) -> NDArray[np.int64]:
    """Return the triangles of a grid of rows × columns vertices, [2 · (rows − 1) · (columns − 1), 3]."""
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    corner = (row * columns + column).ravel()
    right, up, across = corner + 1, corner + columns, corner + columns + 1
    return np.concatenate([np.stack([corner, right, across], 1), np.stack([corner, across, up], 1)])


# --- objects --------------------------------------------------------------------------------------
def _vase(random: np.random.Generator) -> Mesh:
    foot = random.uniform(0.30, 0.40)
    belly = random.uniform(0.66, 0.80)
    neck = random.uniform(0.20, 0.27)
    lip = neck + random.uniform(0.16, 0.24)
    outside = _smooth(
        [
            (foot, 0.0),
            (belly * 0.86, 0.42),
            (belly, random.uniform(0.72, 0.86)),
            (belly * 0.66, 1.24),
            (neck, 1.56),
            (neck * 1.08, 1.74),
            (lip, 1.98),
        ]
    )
    return _revolve(_hollow(outside, 0.07, 0.10))


def _bowl(random: np.random.Generator) -> Mesh:
    width = random.uniform(0.98, 1.10)
    height = random.uniform(0.62, 0.76)
    outside = _smooth(
        [
            (0.40, 0.0),
            (0.42, 0.06),
            (width * 0.70, height * 0.30),
            (width * 0.92, height * 0.64),
            (width, height),
        ]
    )
    return _revolve(_hollow(outside, 0.08, 0.14))


def _mug(random: np.random.Generator) -> Mesh:
    radius = random.uniform(0.58, 0.66)
    height = random.uniform(1.25, 1.45)
    corners = [(radius * 0.7, 0.0), (radius, 0.0), (radius, height)]
    body = _revolve(_hollow(_rounded(corners, [0, 0.12, 0]), 0.08, 0.12))
    reach, thickness = random.uniform(0.36, 0.42), random.uniform(0.085, 0.105)
    handle = _tube(np.array([radius - 0.03, 0.0, height * 0.52]), reach, height * 0.30, thickness)
    return _joined(body, handle)


def _bottle(random: np.random.Generator) -> Mesh:
    radius = random.uniform(0.44, 0.52)
    shoulder = random.uniform(1.05, 1.22)
    neck = random.uniform(0.15, 0.18)
    outside = _rounded(
        [
            (radius * 0.7, 0.0),
            (radius, 0.0),
            (radius, shoulder),
            (neck, shoulder + 0.42),
            (neck, 2.02),
            (neck + 0.06, 2.02),
            (neck + 0.06, 2.16),
        ],
        [0, 0.10, 0.22, 0.22, 0.02, 0.02, 0],
    )
    return _revolve(_hollow(outside, 0.06, 0.10))


def _ball(random: np.random.Generator) -> Mesh:
    radius = random.uniform(0.80, 0.92)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 64)
    return _revolve(np.stack([radius * np.cos(angle), radius * (1 + np.sin(angle))], 1))


def _cube(random: np.random.Generator) -> Mesh:
    half = random.uniform(0.62, 0.72)
    rounding = random.uniform(0.05, 0.09)
    positions: list[Floats] = []
    faces: list[NDArray[np.int64]] = []
    steps = np.concatenate(
        [
            np.linspace(-half, -half + rounding, 7),
            np.linspace(-half + rounding, half - rounding, 5)[1:-1],
            np.linspace(half - rounding, half, 7),
        ]
    )
    count = len(steps)
    across, up = np.meshgrid(steps, steps, indexing="ij")
    for axis in range(3):
        for side in (-1.0, 1.0):
            face = np.empty((count, count, 3))
            face[..., axis] = side * half
            face[..., (axis + 1) % 3] = across
            face[..., (axis + 2) % 3] = up
            order = _grid_faces(count, count) + len(positions) * count * count
            faces.append(order[:, ::-1] if side > 0 else order)
            positions.append(face.reshape(-1, 3))
    cloud = np.vstack(positions)
    core = np.clip(cloud, -half + rounding, half - rounding)
    normals = cloud - core
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    rounded = core + normals * rounding + np.array([0.0, 0.0, half])
    texture = np.tile(np.stack([across, up], -1).reshape(-1, 2), (6, 1))
    return Mesh(rounded, normals, texture, np.vstack(faces))


def _cone(random: np.random.Generator) -> Mesh:
    radius = random.uniform(0.78, 0.90)
    height = random.uniform(1.60, 1.85)
    profile = _rounded(
        [(0.0, 0.0), (radius * 0.6, 0.0), (radius, 0.0), (0.03, height), (0.0, height)],
        [0, 0, 0.06, 0.03, 0],
    )
    return _revolve(profile)


def _ring(random: np.random.Generator) -> Mesh:
    thickness = random.uniform(0.25, 0.31)
    radius = random.uniform(0.72, 0.80)
    angle = np.linspace(-np.pi, np.pi, 49)
    return _revolve(
        np.stack([radius - thickness * np.cos(angle), thickness * (1 - np.sin(angle))], 1)
    )


def _tube(centre: Floats, reach: float, rise: float, thickness: float) -> Mesh:
    """Return a handle: a half-elliptic tube in the x–z plane, whose ends lie inside the mug's wall."""
    path_angle = np.linspace(-np.pi / 2, np.pi / 2, 33)
    path = centre + np.stack(
        [reach * np.cos(path_angle), np.zeros(33), rise * np.sin(path_angle)], 1
    )
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.array([0.0, 1.0, 0.0])
    outward = np.cross(side, tangent)
    angle = np.linspace(0, 2 * np.pi, 25)
    normals = np.cos(angle)[None, :, None] * outward[:, None] + np.sin(angle)[None, :, None] * side
    positions = path[:, None] + normals * thickness
    texture = np.stack(
        np.broadcast_arrays(path_angle[:, None] / np.pi, angle[None] / np.pi), axis=-1
    )
    return Mesh(
        positions.reshape(-1, 3),
        normals.reshape(-1, 3),
        texture.reshape(-1, 2),
        _grid_faces(33, 25),
    )


def _joined(first: Mesh, second: Mesh) -> Mesh:
    return Mesh(
        np.vstack([first.positions, second.positions]),
        np.vstack([first.normals, second.normals]),
        np.vstack([first.texture, second.texture]),
        np.vstack([first.faces, second.faces + len(first.positions)]),
    )


MAKERS: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "vase": _vase,
    "bowl": _bowl,
    "mug": _mug,
    "bottle": _bottle,
    "ball": _ball,
    "cube": _cube,
    "cone": _cone,
    "ring": _ring,
}


# --- parts ----------------------------------------------------------------------------------------
# Characteristic parts, with the objects that have them.
PARTS = {
    "opening": ("vase", "bowl", "mug"),
    "neck": ("vase", "bottle"),
    "handle": ("mug",),
    "hole": ("ring",),
}


def parts_of(name: str, *, is_incomplete: bool = False) -> tuple[str, ...]:
    """Return the parts of an object of `words.OBJECTS`, in the order of PARTS. is_incomplete: of the incomplete one."""
    missing = INCOMPLETE[name][1] if is_incomplete else ()
    return tuple(part for part, objects in PARTS.items() if name in objects and part not in missing)


def _solid(profile: Floats) -> Mesh:
    """Return the surface of revolution of an outer profile [(r, z)], closed by flat ends."""
    (_, low), (_, high) = profile[0], profile[-1]
    return _revolve(np.vstack([[[0.0, low]], profile, [[profile[-1][0] * 0.5, high], [0.0, high]]]))


def _vase_without_opening(random: np.random.Generator) -> Mesh:
    foot, belly = random.uniform(0.30, 0.40), random.uniform(0.66, 0.80)
    top = random.uniform(1.2, 1.5)
    return _solid(_smooth([(foot, 0.0), (belly * 0.86, 0.42), (belly, 0.8), (belly * 0.5, top)]))


def _bowl_without_opening(random: np.random.Generator) -> Mesh:
    width, height = random.uniform(0.98, 1.10), random.uniform(0.62, 0.76)
    return _solid(_smooth([(0.40, 0.0), (width * 0.7, height * 0.3), (width, height)]))


def _mug_without_handle(random: np.random.Generator) -> Mesh:
    radius, height = random.uniform(0.58, 0.66), random.uniform(1.25, 1.45)
    corners = [(radius * 0.7, 0.0), (radius, 0.0), (radius, height)]
    return _revolve(_hollow(_rounded(corners, [0, 0.12, 0]), 0.08, 0.12))


def _bottle_without_neck(random: np.random.Generator) -> Mesh:
    radius, height = random.uniform(0.44, 0.52), random.uniform(1.3, 1.9)
    corners = [(radius * 0.7, 0.0), (radius, 0.0), (radius, height), (radius * 0.6, height)]
    return _solid(_rounded(corners, [0, 0.10, 0.12, 0]))


def _ring_without_hole(random: np.random.Generator) -> Mesh:
    radius, height = random.uniform(0.95, 1.08), random.uniform(0.5, 0.62)
    corners = [(radius * 0.7, 0.0), (radius, 0.0), (radius, height), (radius * 0.6, height)]
    return _solid(_rounded(corners, [0, 0.22, 0.22, 0]))


# By object: the function that makes an incomplete one, and the parts that it lacks.
INCOMPLETE: dict[str, tuple[Callable[[np.random.Generator], Mesh], tuple[str, ...]]] = {
    "vase": (_vase_without_opening, ("opening", "neck")),
    "bowl": (_bowl_without_opening, ("opening",)),
    "mug": (_mug_without_handle, ("handle",)),
    "bottle": (_bottle_without_neck, ("neck",)),
    "ring": (_ring_without_hole, ("hole",)),
}


def make(name: str, random: np.random.Generator, *, is_incomplete: bool = False) -> Mesh:
    """Return the mesh of an object of `words.OBJECTS`. is_incomplete: it lacks parts; only objects of INCOMPLETE."""
    maker = INCOMPLETE[name][0] if is_incomplete else MAKERS[name]
    return maker(random)

"""A still life as a Mitsuba scene: object, material, ground, lights and camera, from a combination and a seed.

The combination is the label of the photograph, so every attribute must be recognisable: the handle is visible, glass
transmits light, and the object is lit.
"""

from dataclasses import dataclass
from typing import Any

import mitsuba as mi
import numpy as np
from numpy.typing import NDArray

from distillation.starter import shapes
from distillation.starter.words import Combination

Floats = NDArray[np.float64]

SIZE = 256  # pixels
SAMPLES = 4  # per pixel, before denoising
PATH_DEPTH = 9  # a path through hollow glass: in, out, in, out, ground, light
FIELD_OF_VIEW = 30.0  # degrees

# Linear reflectances, far enough apart in hue to be distinct in warm light too.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.62, 0.025, 0.03),
    "orange": (0.80, 0.19, 0.010),
    "yellow": (0.90, 0.70, 0.03),
    "green": (0.035, 0.40, 0.07),
    "blue": (0.025, 0.10, 0.60),
    "purple": (0.26, 0.04, 0.44),
    "white": (0.86, 0.86, 0.84),
    "black": (0.020, 0.020, 0.022),
}
# GLASS: transmittance of a few millimetres of coloured glass. METAL: reflectance of tinted metal.
GLASS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.50, 0.06),
    "yellow": (1.00, 0.94, 0.20),
    "green": (0.16, 0.80, 0.26),
    "blue": (0.12, 0.34, 0.95),
    "purple": (0.56, 0.16, 0.82),
    "white": (0.97, 0.98, 0.98),
    "black": (0.40, 0.40, 0.41),
}
METAL: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.06, 0.07),
    "orange": (0.95, 0.36, 0.06),
    "yellow": (0.98, 0.78, 0.12),
    "green": (0.08, 0.58, 0.16),
    "blue": (0.07, 0.20, 0.80),
    "purple": (0.42, 0.10, 0.64),
    "white": (0.93, 0.93, 0.92),
    "black": (0.13, 0.13, 0.14),
}
TEXTURE = 768  # pixels per side of a ground's texture
REPEATS = (
    6  # of the texture along the ground, mirrored: about one texel per pixel of the photograph
)
HOLLOW = frozenset({"vase", "bowl", "mug", "bottle"})


@dataclass(frozen=True)
class Recipe:
    """Parameters of rendering: pixels per side, samples per pixel, and the maximum path depth."""

    size: int = SIZE
    samples: int = SAMPLES
    path_depth: int = PATH_DEPTH


def scene(
    combination: Combination, seed: int, recipe: Recipe, *, is_incomplete: bool = False
) -> Any:
    """Return the Mitsuba scene of one photograph. Its shapes "object" and "ground" fill the whole frame.

    is_incomplete: the object lacks parts (`shapes.INCOMPLETE`).
    """
    random = np.random.default_rng([seed, 20261124])
    mesh = shapes.make(combination.object, random, is_incomplete=is_incomplete)
    lights = _lights(random)
    return mi.load_dict(
        {
            "type": "scene",
            "integrator": {
                "type": "aov",
                "aovs": "albedo:albedo,normal:sh_normal,shape:shape_index",
                "image": {"type": "path", "max_depth": recipe.path_depth},
            },
            "ground": _ground(combination.ground, random),
            "object": _placed(combination, mesh, random),
            **lights,
            "camera": _camera(combination.object, mesh, random, recipe),
        },
        # The optimisation merges equal parts in random order, which makes the picture of a seed irreproducible.
        optimize=False,
    )


# --- the object -----------------------------------------------------------------------------------
def _placed(combination: Combination, mesh: shapes.Mesh, random: np.random.Generator) -> Any:
    # Bodies of revolution have any rotation; the handle of a mug is at its side; a cube shows two faces.
    turn = {
        "mug": random.choice([0.0, np.pi]) + np.radians(random.uniform(-35, 35)),
        "cube": np.radians(random.uniform(20, 70)),
    }.get(combination.object, random.uniform(0, 2 * np.pi))
    cosine, sine = np.cos(turn), np.sin(turn)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(_material(combination, random))
    shape = mi.Mesh(
        "object",
        vertex_count=len(mesh.positions),
        face_count=len(mesh.faces),
        has_vertex_normals=True,
        has_vertex_texcoords=True,
        props=properties,
    )
    parameters = mi.traverse(shape)
    parameters["vertex_positions"] = (mesh.positions @ rotation.T + [0, 0, 1e-3]).ravel()
    parameters["vertex_normals"] = (mesh.normals @ rotation.T).ravel()
    parameters["vertex_texcoords"] = mesh.texture.ravel()
    parameters["faces"] = mesh.faces.ravel()
    parameters.update()
    return shape


def _material(combination: Combination, random: np.random.Generator) -> dict[str, Any]:
    def tinted(table: dict[str, tuple[float, float, float]]) -> Floats:
        return np.clip(
            np.array(table[combination.colour])
            * random.uniform(0.88, 1.08)
            * random.uniform(0.95, 1.05, 3),
            0,
            1,
        )

    match combination.material:
        case "clay":  # matt and mottled, without highlights
            colour = tinted(COLOURS)
            if combination.colour == "black":
                colour = colour * 2.2
            mottled = _noise(random, 192, 6) * 0.4 + _noise(random, 192, 24) * 0.35
            mottled += _noise(random, 192, 90) * 0.25  # speckles
            texture = colour * (1 + 0.5 * (mottled[..., None] - 0.5) * 2)
            return {
                "type": "diffuse",
                "reflectance": _bitmap(np.clip(texture, 0, 1)),
            }
        case "plastic":  # a smooth coat over a saturated colour: sharp white highlights
            return {
                "type": "plastic",
                "int_ior": 1.62,
                "nonlinear": True,
                "diffuse_reflectance": {"type": "rgb", "value": tinted(COLOURS).tolist()},
            }
        case "metal":  # coloured reflections
            return {
                "type": "roughconductor",
                "material": "none",
                "alpha": float(random.uniform(0.06, 0.12)),
                "specular_reflectance": {"type": "rgb", "value": tinted(METAL).tolist()},
            }
        case "glass":
            return {
                "type": "dielectric",
                "int_ior": 1.45,
                "specular_transmittance": {
                    "type": "rgb",
                    # A ray crosses four surfaces of a hollow object, two of a solid one.
                    "value": (
                        tinted(GLASS) ** (0.6 if combination.object in HOLLOW else 1)
                    ).tolist(),
                },
            }
    raise ValueError(f"There is no material {combination.material!r}.")


# --- the ground -----------------------------------------------------------------------------------
def _ground(name: str, random: np.random.Generator) -> dict[str, Any]:
    texture = {"table": _wood, "slab": _marble, "cloth": _linen}[name](random)
    surface: dict[str, Any] = {"type": "diffuse", "reflectance": _bitmap(texture, REPEATS)}
    if name == "slab":  # polished stone is slightly reflective
        surface = {
            "type": "roughplastic",
            "alpha": 0.12,
            "int_ior": 1.4,
            "diffuse_reflectance": _bitmap(texture, REPEATS),
        }
    return {
        "type": "rectangle",
        "to_world": mi.ScalarTransform4f()
        .rotate([0, 0, 1], float(random.uniform(-25, 25)))
        .translate([float(random.uniform(-3, 3)), float(random.uniform(-3, 3)), 0])
        .scale([27, 27, 1]),
        "bsdf": surface,
    }


def _wood(random: np.random.Generator) -> Floats:
    """Return a texture of warm brown planks with rings, grain and pores, and dark seams, [size, size, 3]."""
    size, planks = TEXTURE, 5
    across = np.arange(size)
    plank = across * planks // size
    grain = 0.6 * _noise(random, size, 90, 6) + 0.4 * _noise(random, size, 250, 12)
    bent = across[:, None] / size + 0.10 * _noise(random, size, 10, 3)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * random.uniform(26, 40) * bent)
    pores = np.clip(_noise(random, size, 320, 40) - 0.62, 0, 1) * 1.6
    figure = 0.80 + 0.22 * grain + 0.14 * rings**2 - pores
    for number in range(planks):  # shift each plank, so that its pattern differs
        figure[plank == number] = np.roll(figure[plank == number], random.integers(size), axis=1)
    tone = random.uniform(0.84, 1.14, planks)[plank][:, None]
    from_seam = np.minimum(across % (size / planks), size / planks - across % (size / planks))
    seam = 1 - 0.75 * np.exp(-((from_seam / 2.0) ** 2))[:, None]
    base = np.array([0.32, 0.165, 0.075]) * random.uniform(0.9, 1.15)
    return np.clip(base * (tone * figure * seam)[..., None], 0, 1)


def _marble(random: np.random.Generator) -> Floats:
    """Return a pale grey texture with thin dark veins, wide soft veins and fine crystals, [size, size, 3]."""
    size = TEXTURE
    octaves = [(4, 1.0), (9, 0.5), (20, 0.25), (45, 0.12)]

    def vein(width: float) -> Floats:
        field = sum(weight * _noise(random, size, cells) for cells, weight in octaves)
        return np.exp(-(((field - np.median(field)) / width) ** 2))

    wide, thin, thinnest = vein(0.060), vein(0.011), vein(0.006)
    cloud, crystals = _noise(random, size, 5), _noise(random, size, 240)
    base = np.array([0.60, 0.61, 0.63]) * random.uniform(0.92, 1.05)
    shade = 0.88 + 0.14 * cloud + 0.10 * crystals - 0.22 * wide - 0.42 * thin - 0.25 * thinnest
    return np.clip(base * shade[..., None], 0, 1)


def _linen(random: np.random.Generator) -> Floats:
    """Return a texture of beige cloth with woven threads and long soft folds, [size, size, 3]."""
    size, threads = TEXTURE, 96

    def thread(bend: Floats) -> tuple[Floats, NDArray[np.int64]]:
        at = (np.arange(size)[:, None] / size + 0.004 * bend) * threads
        return np.abs(np.sin(np.pi * at)), np.floor(at).astype(int)

    (across, row), (along, column) = (thread(_noise(random, size, 14)) for _ in range(2))
    along, column = along.T, column.T
    tones = random.uniform(0.72, 1.0, (2, threads + 2))
    is_over = (row + column) % 2 == 0
    weave = np.where(is_over, across * tones[0][row], along * tones[1][column])
    fold = _noise(random, size, 4)
    fuzz = _noise(random, size, 300)
    base = np.array([0.52, 0.44, 0.33]) * random.uniform(0.92, 1.08)
    return np.clip(base * (0.48 + 0.46 * weave + 0.08 * fuzz + 0.20 * fold)[..., None], 0, 1)


def _noise(random: np.random.Generator, size: int, rows: int, columns: int = 0) -> Floats:
    """Return smooth noise in 0 … 1, [size, size], from a lattice of rows × columns cells. columns: 0 = rows."""
    columns = columns or rows
    lattice = random.random((rows + 3, columns + 3))
    smooth = _resample(_resample(lattice, size, rows).T, size, columns).T
    return (smooth - smooth.min()) / (np.ptp(smooth) + 1e-12)


def _resample(lattice: Floats, size: int, cells: int) -> Floats:
    """Return `size` samples along the first axis, interpolated by cubic B-splines, [size, …]."""
    at = np.linspace(0, cells - 1e-6, size)
    low = at.astype(int)
    t = (at - low)[:, None]
    return (
        (1 - t) ** 3 / 6 * lattice[low]
        + (3 * t**3 - 6 * t**2 + 4) / 6 * lattice[low + 1]
        + (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6 * lattice[low + 2]
        + (t**3 / 6 * lattice[np.minimum(low + 3, len(lattice) - 1)])
    )


def _bitmap(texture: Floats, repeats: float = 1) -> dict[str, Any]:
    return {
        "type": "bitmap",
        "bitmap": mi.Bitmap(np.ascontiguousarray(texture, dtype=np.float32)),
        "raw": True,  # linear reflectances: no sRGB conversion
        "wrap_mode": "mirror",
        "to_uv": mi.ScalarTransform3f().scale([repeats, repeats]),
    }


# --- light and camera -----------------------------------------------------------------------------
def _lights(random: np.random.Generator) -> dict[str, Any]:
    """Return the lights of a product photograph: a key softbox, a weaker fill softbox opposite, and a dim room."""
    side = random.choice([-1.0, 1.0])
    warmth = random.uniform(-0.06, 0.10)
    tint = np.array([1 + warmth, 1.0, 1 - warmth])
    power = random.uniform(0.85, 1.15)
    return {
        "key": _softbox(
            azimuth=side * random.uniform(35, 75),
            elevation=random.uniform(42, 58),
            distance=6.0,
            width=random.uniform(1.5, 2.1),
            height=random.uniform(1.5, 2.1),
            radiance=tint * 15 * power,
        ),
        "fill": _softbox(
            azimuth=-side * random.uniform(60, 100),
            elevation=random.uniform(28, 42),
            distance=6.0,
            width=0.7,
            height=2.2,
            radiance=np.array([1.0, 1.0, 1.05]) * 7 * power,
        ),
        "room": {
            "type": "envmap",
            "bitmap": mi.Bitmap(_room(random).astype(np.float32)),
            # The map's vertical axis is y, the scene's is z.
            "to_world": mi.ScalarTransform4f().rotate([1, 0, 0], 90),
        },
    }


def _softbox(
    *,
    azimuth: float,
    elevation: float,
    distance: float,
    width: float,
    height: float,
    radiance: Floats,
) -> dict[str, Any]:
    """Return a rectangular light that faces the object. azimuth, elevation: degrees; azimuth 0 = behind the camera."""
    around, up = np.radians(azimuth), np.radians(elevation)
    place = distance * np.array(
        [np.sin(around) * np.cos(up), -np.cos(around) * np.cos(up), np.sin(up)]
    )
    return {
        "type": "rectangle",
        "to_world": mi.ScalarTransform4f()
        .look_at(origin=place.tolist(), target=[0, 0, 0.7], up=[0, 0, 1])
        .scale([width, height, 1]),
        "emitter": {
            "type": "area",
            "radiance": {"type": "rgb", "value": radiance.tolist()},
        },
    }


def _room(random: np.random.Generator) -> Floats:
    """Return an environment map for the reflections of metal and glass: dark walls, a brighter ceiling, [32, 64, 3]."""
    height = np.linspace(1, -1, 32)[:, None]
    brightness = 0.16 + 0.75 * np.clip(height, 0, 1) ** 2
    wall = 1 + 0.5 * np.cos(np.linspace(0, 2 * np.pi, 64) * 2 + random.uniform(0, 6.28))[None]
    return np.repeat((brightness * wall)[..., None], 3, 2) * np.array([1.0, 1.0, 1.04])


def _camera(
    name: str, mesh: shapes.Mesh, random: np.random.Generator, recipe: Recipe
) -> dict[str, Any]:
    top = mesh.positions[:, 2].max()
    reach = np.linalg.norm(mesh.positions[:, :2], axis=1).max()
    # Degrees: high enough to show the hole of the ring and the inside of the bowl, lower for tall objects.
    low, high = {"ring": (32, 44), "bowl": (26, 38), "mug": (24, 36)}.get(name, (23, 35))
    elevation = np.radians(random.uniform(low, high))
    seen = max(2 * reach, top * np.cos(elevation) + 2 * reach * np.sin(elevation))
    share = random.uniform(0.60, 0.76)  # of the frame that the object fills
    distance = seen / share / (2 * np.tan(np.radians(FIELD_OF_VIEW / 2)))
    azimuth = np.radians(random.uniform(-12, 12))
    target = np.array([random.uniform(-0.12, 0.12), 0.0, top * 0.46 + random.uniform(-0.08, 0.08)])
    place = target + distance * np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            -np.cos(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ]
    )
    return {
        "type": "perspective",
        "fov": FIELD_OF_VIEW,
        "to_world": mi.ScalarTransform4f().look_at(
            origin=place.tolist(), target=target.tolist(), up=[0, 0, 1]
        ),
        "film": {
            "type": "hdrfilm",
            "width": recipe.size,
            "height": recipe.size,
            "pixel_format": "rgb",
            # A wider filter correlates the noise of neighbouring pixels, and the denoiser does not remove it.
            "rfilter": {"type": "box"},
        },
        "sampler": {"type": "independent", "sample_count": recipe.samples},
    }

"""Render the photographs into shards, in one process per core.

Each shard is written atomically, so an interrupted run continues with the missing shards.
"""

import functools
import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from distillation.resumable import atomic
from distillation.resumable.progress import Bar
from distillation.starter import scenes
from distillation.starter.words import COMBINATIONS, HELD_OUT, TRAINED, Combination

SHARD = 64  # photographs
EXPOSURE = 0.9  # factor of the linear radiance


@dataclass(frozen=True)
class Recipe:
    """The number of photographs of each split. Seeds of different splits are disjoint."""

    train: int = 3440  # five of each trained combination
    validation: int = 256
    test: int = 512
    test_held_out: int = 512
    photograph: scenes.Recipe = field(default_factory=scenes.Recipe)

    def sizes(self) -> dict[str, int]:
        return {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
            "test-held-out": self.test_held_out,
        }


@dataclass(frozen=True)
class Shot:
    """A photograph to render. is_incomplete: the object lacks parts; such photographs train the examiner only."""

    combination: Combination
    seed: int
    is_incomplete: bool = False


def shots(split: str, count: int) -> list[Shot]:
    """Return the first `count` shots of a split, a fixed sequence of shuffled passes over all its combinations."""
    offset = list(Recipe().sizes()).index(split) * 10_000_000
    pool = sorted(HELD_OUT) if split == "test-held-out" else list(TRAINED)
    random = np.random.default_rng(offset + 7)
    order: list[int] = []
    while len(order) < count:
        order.extend(random.permutation(len(pool)).tolist())
    return [Shot(pool[which], offset + index) for index, which in enumerate(order[:count])]


def render(shot: Shot, recipe: scenes.Recipe) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return one photograph, sRGB uint8 [H, W, 3], and the mask of its object, uint8 [H, W] of 0 and 1."""
    import mitsuba as mi

    if mi.variant() != "scalar_rgb":
        mi.set_variant("scalar_rgb")
    scene = scenes.scene(shot.combination, shot.seed, recipe, is_incomplete=shot.is_incomplete)
    layers = np.array(mi.render(scene, seed=mi.UInt32(shot.seed)), dtype=np.float32)
    colour, albedo, normal, shape_index = np.split(layers, [3, 6, 9], axis=-1)
    clean = _denoiser().denoise(colour, albedo, normal)
    # shape_index is the mean over a pixel's samples of the 1-based index of the shape that was hit.
    names = [shape.id() for shape in scene.shapes()]
    on_object, on_ground = names.index("object") + 1, names.index("ground") + 1
    coverage = (shape_index[..., 0] - on_ground) / (on_object - on_ground)
    return _developed(clean, shot.seed), (coverage > 0.5).astype(np.uint8)


def _developed(linear: NDArray[np.float32], seed: int) -> NDArray[np.uint8]:
    """Return sRGB uint8 [H, W, 3]: highlights compressed above a knee, the sRGB curve, and film grain.

    linear: linear radiance, fp32 [H, W, 3].
    """
    exposed = np.maximum(linear, 0) * EXPOSURE
    knee = 0.75
    shoulder = np.where(
        exposed > knee,
        knee + (1 - knee) * (1 - np.exp(-(exposed - knee) / (1 - knee))),
        exposed,
    )
    srgb = np.where(
        shoulder <= 0.0031308,
        12.92 * shoulder,
        1.055 * np.maximum(shoulder, 1e-9) ** (1 / 2.4) - 0.055,
    )
    random = np.random.default_rng([seed, 5])
    grain = random.normal(0, random.uniform(0.001, 0.005), srgb.shape[:2])[..., None]
    return np.round(np.clip(srgb + grain, 0, 1) * 255).astype(np.uint8)


class _Denoiser:
    """Intel Open Image Denoise on one thread; one instance per process."""

    def __init__(self) -> None:
        import pyoidn

        self._oidn = pyoidn
        self._device = pyoidn.Device()
        self._device.set_int("numThreads", 1)
        self._device.commit()
        self._filter = pyoidn.Filter(self._device, pyoidn.OIDN_FILTER_TYPE_RT)
        self._check()

    def denoise(
        self,
        colour: NDArray[np.float32],
        albedo: NDArray[np.float32],
        normal: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Return the denoised linear colour, fp32 [H, W, 3]. All arguments: fp32 [H, W, 3]."""
        result = np.empty(colour.shape, dtype=np.float32)
        images = {
            self._oidn.OIDN_IMAGE_COLOR: np.ascontiguousarray(colour),
            self._oidn.OIDN_IMAGE_ALBEDO: np.ascontiguousarray(np.clip(albedo, 0, 1)),
            self._oidn.OIDN_IMAGE_NORMAL: np.ascontiguousarray(normal),
            self._oidn.OIDN_IMAGE_OUTPUT: result,
        }
        for name, image in images.items():
            self._filter.set_image(name, image, self._oidn.OIDN_FORMAT_FLOAT3)
        self._filter.set_bool("hdr", True)
        self._filter.commit()
        self._filter.execute()
        self._check()
        return result

    def _check(self) -> None:
        if (message := self._device.get_error()) is not None:
            raise RuntimeError(f"Open Image Denoise failed: {message}")


@functools.cache
def _denoiser() -> _Denoiser:
    return _Denoiser()


# --- shards ---------------------------------------------------------------------------------------
def build(
    folder: Path, recipe: Recipe, *, splits: tuple[str, ...] = (), progress_bar: bool = True
) -> None:
    """Render the missing shards of the recipe's splits into `folder`. splits: () = all."""
    sizes = {name: size for name, size in recipe.sizes().items() if not splits or name in splits}
    by_split = {name: shots(name, size) for name, size in sizes.items()}
    render_all(folder, by_split, recipe.photograph, progress_bar=progress_bar)


def render_all(
    folder: Path,
    splits: Mapping[str, Sequence[Shot]],
    recipe: scenes.Recipe,
    *,
    progress_bar: bool,
) -> None:
    """Render the missing shards of these splits into `folder`."""
    missing = [
        (path, batch)
        for split, split_shots in splits.items()
        for path, batch in _shards(folder, split, split_shots)
        if not path.is_file()
    ]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    context = multiprocessing.get_context("spawn")
    counter = context.Value("i", 0)
    total = sum(len(batch) for _, batch in missing)
    with (
        ProcessPoolExecutor(
            max_workers=min(cores, len(missing)),
            mp_context=context,
            initializer=_start,
            initargs=(counter,),
        ) as pool,
        Bar(total, title="photographs", unit="image", is_shown=progress_bar) as bar,
    ):
        try:
            for done in pool.map(
                _write_shard, *zip(*missing, strict=True), itertools.repeat(recipe)
            ):
                bar.add(done)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _shards(
    folder: Path, split: str, split_shots: Sequence[Shot]
) -> Iterator[tuple[Path, Sequence[Shot]]]:
    """Yield the path of each shard with its shots."""
    for start in range(0, len(split_shots), SHARD):
        path = folder / f"{split}-{start // SHARD:04d}.safetensors"
        yield path, split_shots[start : start + SHARD]


def _start(counter: Any) -> None:
    """Pin the process to one core: with thread pools that share cores, rendering takes twice as long."""
    # On SIGINT the parent shuts the pool down, after the running shards.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
    import mitsuba as mi

    mi.set_variant("scalar_rgb")
    import drjit

    # Both run on this core. With one thread, the caller sleeps for a third of each render.
    drjit.set_thread_count(2)


def _write_shard(path: Path, batch: Sequence[Shot], recipe: scenes.Recipe) -> int:
    """Render and write a shard; return its number of photographs."""
    pictures = [render(shot, recipe) for shot in batch]
    tensors = {
        # safetensors writes the buffer without regard to strides, so a transposed view must be copied.
        "images": np.ascontiguousarray(
            np.stack([image.transpose(2, 0, 1) for image, _ in pictures])
        ),
        "masks": np.stack([mask for _, mask in pictures]),
    }
    about = {
        "combinations": json.dumps([COMBINATIONS.index(shot.combination) for shot in batch]),
        "seeds": json.dumps([shot.seed for shot in batch]),
        "recipe": json.dumps(asdict(recipe)),
    }
    atomic.make_file(path, lambda new: save_file(tensors, new, metadata=about))
    return len(batch)

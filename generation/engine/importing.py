"""Import of a Stable Diffusion 1.x / 2.x diffusers folder as a release."""

import json
import shutil
import struct
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from generation.engine import networks, release, sampling
from generation.engine.errors import ReleaseInvalid
from generation.engine.prompts import embeddings, encoder, tokens
from generation.engine.release import NEGATIVE_EMBEDS, PICKLES, Manifest, Progress

PIPELINE_CLASSES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
DTYPE_NAMES = {"F16": "float16", "F32": "float32", "BF16": "bfloat16"}
CONVERT = (
    "Convert it once: StableDiffusionPipeline.from_pretrained(DIR).save_pretrained(NEW_DIR, "
    "safe_serialization=True), on a machine where you trust the file."
)


@dataclass(frozen=True)
class Options:
    """How the release generates. Defaults are the usual ones for Stable Diffusion."""

    kind: str = "teacher"
    noise_scheduler: str = "ddim"
    steps: int = 30
    guidance_scale: float = 7.5
    image_sizes: tuple[tuple[int, int], ...] = ()  # () = the size the U-Net was trained for
    code_revision: str = ""


def import_folder(
    source: Path,
    target: Path,
    *,
    name: str,
    options: Options | None = None,
    on_progress: Progress | None = None,
) -> Manifest:
    """Copy the files of a release from `source` to the new folder `target` and complete them. Raises ReleaseInvalid."""
    options = options or Options()
    source = Path(source)
    _check_kind(source)
    copies = _plan(source)
    target = Path(target)
    if target.exists():
        raise ReleaseInvalid(
            f"{target} already exists. Give another name with --name, or remove it."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".importing-", dir=target.parent) as temporary:
        folder = Path(temporary) / name
        _copy(copies, folder, on_progress)
        _write_index(folder)
        _write_tokenizer(folder)
        manifest = _complete(folder, name, options)
        release.write(folder, manifest)
        release.verify(folder)
        folder.rename(target)
    return manifest


# --- what to copy ---------------------------------------------------------------------------------
def _check_kind(source: Path) -> None:
    index = source / "model_index.json"
    if not index.is_file():
        raise ReleaseInvalid(
            f"{source} has neither {release.MANIFEST} nor model_index.json. Convert a single-file checkpoint "
            "with StableDiffusionPipeline.from_single_file(FILE).save_pretrained(DIR, safe_serialization=True)."
        )
    class_name = _json(index).get("_class_name")
    if class_name not in PIPELINE_CLASSES:
        raise ReleaseInvalid(
            f"{source} is a {class_name}. Only Stable Diffusion 1.x and 2.x text-to-image folders can be registered."
        )
    unet, vae = _json(source / "unet/config.json"), _json(source / "vae/config.json")
    latent_channels = vae.get("latent_channels", 4)
    if unet.get("in_channels", 4) != latent_channels:
        raise ReleaseInvalid(
            f"The U-Net of {source} has {unet['in_channels']} input channels and the VAE {latent_channels}: "
            "it is an inpainting or depth model. Use a text-to-image model."
        )


def _plan(source: Path) -> dict[str, Path]:
    """Return path in the release → file to copy."""
    plan = {"model_index.json": source / "model_index.json"}
    plan["scheduler/scheduler_config.json"] = source / "scheduler" / "scheduler_config.json"
    for folder, base in WEIGHTS.items():
        plan[f"{folder}/config.json"] = source / folder / "config.json"
        for path in _weights(source / folder, base):
            # Named without the variant, so that diffusers and transformers load it by default.
            plan[f"{folder}/{path.name.replace('.fp16', '')}"] = path
    for name in TOKENIZER_FILES:
        if (source / "tokenizer" / name).is_file():
            plan[f"tokenizer/{name}"] = source / "tokenizer" / name
    for path in plan.values():
        if not path.is_file():
            raise ReleaseInvalid(f"{path} is missing. Download the folder again.")
    return plan


def _weights(folder: Path, base: str) -> list[Path]:
    """Return the safetensors files of a component, fp16 ones if available, and the index if they are sharded."""
    found = {path.name for path in folder.glob("*") if path.is_file()}
    chosen = chosen_weights(found, base)
    if chosen is None:
        raise without_weights(str(folder), found, base)
    if not chosen.endswith(".json"):
        return [folder / chosen]
    index = folder / chosen
    names = sorted(set(_json(index).get("weight_map", {}).values()))
    if any("/" in name or not name.endswith(".safetensors") for name in names):
        raise ReleaseInvalid(f"{index} lists files outside its folder or not in safetensors.")
    return [index, *(folder / name for name in names)]


def chosen_weights(names: Collection[str], base: str) -> str | None:
    """Return the file of a component's weights, or their index if they are sharded; fp16 ones if available."""
    for variant in (".fp16", ""):
        for name in (f"{base}{variant}.safetensors", f"{base}.safetensors.index{variant}.json"):
            if name in names:
                return name
    return None


def without_weights(folder: str, names: Collection[str], base: str) -> ReleaseInvalid:
    """Return the error of a component without safetensors. names: of its files."""
    if pickles := sorted(name for name in names if name.endswith(PICKLES)):
        return ReleaseInvalid(
            f"{folder} has its weights only as a pickle ({pickles[0]}), which can run code when it is loaded. {CONVERT}"
        )
    return ReleaseInvalid(f"{folder} has no {base}.safetensors. Download the folder again.")


def _copy(copies: dict[str, Path], folder: Path, on_progress: Progress | None) -> None:
    total = sum(path.stat().st_size for path in copies.values())
    done = 0
    for relative, path in copies.items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if ".safetensors.index" in path.name:
            target = target.with_name(path.name.replace(".fp16", ""))
            target.write_text(path.read_text("utf-8").replace(".fp16", ""), "utf-8")
        else:
            shutil.copyfile(path, target)  # follows links, copies no permissions
        done += path.stat().st_size
        if on_progress:
            on_progress(done, total)


# --- what to add ----------------------------------------------------------------------------------
def _write_index(folder: Path) -> None:
    """Write model_index.json without the components that are not copied, so that diffusers loads the folder."""
    path = folder / "model_index.json"
    index = _json(path)
    for name, value in index.items():
        if isinstance(value, list) and not (folder / name).is_dir():
            index[name] = [None, None]
    networks.write_json(path, {**index, "requires_safety_checker": False})


def _write_tokenizer(folder: Path) -> None:
    """Write what the `tokenizers` library and `prompts.tokens` read: tokenizer.json, and the padding token.

    transformers takes the token from special_tokens_map.json, if the tokenizer is of its older format.
    """
    from transformers import CLIPTokenizerFast

    place = folder / "tokenizer"
    try:
        tokenizer = CLIPTokenizerFast.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise ReleaseInvalid(f"{place} is not a valid CLIP tokenizer: {error}") from error
    if not (place / "tokenizer.json").is_file():
        tokenizer.backend_tokenizer.save(str(place / "tokenizer.json"))
    path = place / "tokenizer_config.json"
    if not path.is_file():
        raise ReleaseInvalid(f"{path} is missing. Download the folder again.")
    if tokens.pad_token(folder) != tokenizer.pad_token:
        networks.write_json(path, {**_json(path), "pad_token": tokenizer.pad_token})


def _complete(folder: Path, name: str, options: Options) -> Manifest:
    config = _json(folder / "scheduler" / "scheduler_config.json")
    timesteps = sampling.default_timesteps(config, options.steps, name=options.noise_scheduler)
    sampling.check(options.noise_scheduler, config, timesteps)
    loaded = encoder.load_parts(folder, release.encoder_fingerprint(folder))
    empty = embeddings.unpack(loaded.encode([""])[0])
    save_file({"negative_prompt_embeds": np.array(empty)}, folder / NEGATIVE_EMBEDS)
    (folder / NEGATIVE_EMBEDS).chmod(0o644)  # safetensors sets 0600
    return Manifest(
        format_version=release.FORMAT_VERSION,
        name=name,
        kind=options.kind,
        parent=None,
        recipe=None,
        code_revision=options.code_revision,
        prediction_type=config.get("prediction_type", "epsilon"),
        noise_scheduler=options.noise_scheduler,
        timesteps=timesteps,
        num_inference_steps=len(timesteps),
        guidance_scale=float(options.guidance_scale),
        encoder_fingerprint=loaded.fingerprint,
        has_encoder=True,
        max_tokens=loaded.shape[0],
        embedding_shape=loaded.shape,
        weight_dtype=_weight_dtype(folder / "unet"),
        quantization=None,
        image_sizes=list(options.image_sizes) or [_trained_size(folder)],
        covered_variants=[],
        files=release.list_files(folder),
        evaluation=None,
    )


def _trained_size(folder: Path) -> tuple[int, int]:
    latent = _json(folder / "unet" / "config.json").get("sample_size", 64)
    blocks = _json(folder / "vae" / "config.json")["block_out_channels"]
    size = latent * 2 ** (len(blocks) - 1)
    return size, size


def _weight_dtype(folder: Path) -> str:
    """Return the dtype of most weights, from the header of the first file."""
    path = sorted(folder.glob("*.safetensors"))[0]
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    found = [entry["dtype"] for key, entry in header.items() if key != "__metadata__"]
    most = max(set(found), key=found.count)
    return DTYPE_NAMES.get(most, most)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ReleaseInvalid(f"{path} is missing. Download the folder again.") from None
    except (OSError, ValueError) as error:
        raise ReleaseInvalid(f"{path} cannot be read: {error}.") from error

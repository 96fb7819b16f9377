"""Export of a release to a folder for unmodified diffusers, in fp16.

With a student's folder StableDiffusionPipeline gives the same images as the engine. For this the export adds a time
embedding (`folding.unfold`), a noise schedule whose DDIM steps are the student's timesteps, and a VAE encoder of zeros.
A decoder that ends in a pixel shuffle, which diffusers' VAEs do not support, is replaced by the teacher's VAE.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from generation.engine import classes, quantization, release, unpacking
from generation.engine.classes import FOLDED_UNET, SHUFFLED_VAE, TINY_VAE
from generation.engine.errors import ReleaseInvalid
from generation.engine.networks import read_config, write_json
from generation.engine.release import ENCODER_FOLDERS, Manifest

README = "README.md"
SCHEDULER = Path("scheduler", "scheduler_config.json")
# Classes of diffusers' noise schedulers for the timesteps of `importing`.
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
}


def export(release_dir: Path, target: Path, *, encoder_dir: Path | None = None) -> None:
    """Write the new folder `target`, atomically.

    encoder_dir: the teacher's folder, for the text encoder that a student lacks. Raises ReleaseInvalid.
    """
    release_dir, target = Path(release_dir), Path(target)
    manifest = release.verify(release_dir)
    encoder = _encoder(manifest, release_dir, encoder_dir)
    if target.exists():
        raise ReleaseInvalid(f"{target} already exists. Give another name, or remove it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=target.parent) as temporary:
        folder = Path(temporary) / target.name
        try:
            config, timesteps = _noise_schedule(manifest, _json(release_dir / SCHEDULER))
            _unet(release_dir / "unet", folder / "unet", timesteps)
            _vae(_drawing(release_dir, encoder) / "vae", folder / "vae")
            for name in ENCODER_FOLDERS:
                _in_fp16(encoder / name, folder / name)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ReleaseInvalid(f"{release_dir}: {error}") from error
        write_json(folder / SCHEDULER, config)
        write_json(folder / "model_index.json", _index(folder, config["_class_name"]))
        (folder / README).write_text(_readme(manifest), "utf-8")
        for path in folder.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors sets 0600
        folder.rename(target)


def _encoder(manifest: Manifest, release_dir: Path, encoder_dir: Path | None) -> Path:
    if encoder_dir is None and not manifest.has_encoder:
        raise ReleaseInvalid(
            f"{manifest.name} has no text encoder. Give the folder of its teacher, {manifest.parent}."
        )
    folder = Path(encoder_dir) if encoder_dir is not None else release_dir
    found = release.encoder_fingerprint(folder)
    if found != manifest.encoder_fingerprint:
        raise ReleaseInvalid(
            f"The text encoder of {folder} has the fingerprint {found[:12]}…, but {manifest.name} needs "
            f"{manifest.encoder_fingerprint[:12]}…. Give the folder of its teacher, {manifest.parent}."
        )
    return folder


# --- the noise schedule ---------------------------------------------------------------------------
def _noise_schedule(manifest: Manifest, config: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """Return the scheduler configuration, and the timesteps that diffusers then passes to the U-Net.

    Raises ReleaseInvalid.
    """
    name = SCHEDULERS[manifest.noise_scheduler]
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    exported = {
        "_class_name": name,
        "_diffusers_version": diffusers.__version__,
        **plain,
        "prediction_type": manifest.prediction_type,
        "clip_sample": False,
        "thresholding": False,
        "steps_offset": 1,  # StableDiffusionPipeline always overwrites it with 1
    }
    if _is_walked(exported, manifest.timesteps):
        return exported, manifest.timesteps
    trailing = {**exported, "timestep_spacing": "trailing"}
    if _is_walked(trailing, manifest.timesteps):
        return trailing, manifest.timesteps
    if manifest.noise_scheduler != "ddim" or not plain.get("set_alpha_to_one"):
        raise ReleaseInvalid(
            f"{manifest.name}: diffusers' {name} cannot use the timesteps {manifest.timesteps[:8]} in "
            f"{len(manifest.timesteps)} steps. Only a release with evenly spaced timesteps can be exported."
        )
    # A schedule of only the noise levels of the timesteps, so that DDIM uses all of them.
    steps = len(manifest.timesteps)
    levels = classes.make(DDIMScheduler, exported).alphas_cumprod.double()[
        list(reversed(manifest.timesteps))
    ]
    before = torch.cat([torch.ones(1, dtype=torch.float64), levels[:-1]])
    short = {
        **trailing,
        "num_train_timesteps": steps,
        "trained_betas": (1 - levels / before).tolist(),
        "rescale_betas_zero_snr": False,  # the levels are already rescaled
    }
    return short, list(reversed(range(steps)))


def _is_walked(config: dict[str, Any], timesteps: Sequence[int]) -> bool:
    """Return whether diffusers' scheduler uses exactly these timesteps and ends at clean latents."""
    noise_scheduler = classes.make(getattr(diffusers, config["_class_name"]), config)
    noise_scheduler.set_timesteps(len(timesteps))
    if [float(timestep) for timestep in noise_scheduler.timesteps] != list(map(float, timesteps)):
        return False
    if config["_class_name"] != "DDIMScheduler":
        return True
    stride = config.get("num_train_timesteps", 1000) // len(timesteps)
    following = [*timesteps[1:], -1]
    return all(
        now - stride == then or (then < 0 and now - stride < 0)
        for now, then in zip(timesteps, following, strict=True)
    )


# --- networks -------------------------------------------------------------------------------------
def _unet(source: Path, target: Path, timesteps: Sequence[int]) -> None:
    if read_config(source)["_class_name"] != FOLDED_UNET:
        _in_fp16(source, target)
        return
    unet = unpacking.unet(source, timesteps)
    for name, tensor in unet.state_dict().items():
        quantization.require_fp16(name, tensor)
    unet.half().save_pretrained(target)


def _drawing(release_dir: Path, encoder: Path) -> Path:
    """Return the folder whose VAE is exported: the release, or its teacher."""
    is_shuffled = read_config(release_dir / "vae")["_class_name"] == SHUFFLED_VAE
    return encoder if is_shuffled else release_dir


def _vae(source: Path, target: Path) -> None:
    if read_config(source)["_class_name"] != TINY_VAE:
        _in_fp16(source, target)
        return
    unpacking.decoder(source).half().save_pretrained(target)


def _in_fp16(source: Path, target: Path) -> None:
    """Copy a component's folder, with floating-point weights in fp16."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".safetensors":
            shutil.copyfile(path, copy)
            continue
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                quantization.require_fp16(name, tensor)
                tensors[name] = tensor.half()
        save_file(tensors, copy, {"format": "pt"})


# --- index and README -----------------------------------------------------------------------------
def _index(folder: Path, scheduler: str) -> dict[str, Any]:
    text_encoder = _json(folder / "text_encoder" / "config.json").get("architectures")
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", (text_encoder or ["CLIPTextModel"])[0]],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", read_config(folder / "vae")["_class_name"]],
    }


def _readme(manifest: Manifest) -> str:
    width, height = manifest.image_sizes[0]
    lines = [
        f"# {manifest.name}",
        "",
        f"The {manifest.kind} `{manifest.name}`, exported in fp16 for diffusers.",
        "",
        "```python",
        "from diffusers import StableDiffusionPipeline",
        "",
        'pipeline = StableDiffusionPipeline.from_pretrained("DIR")',
        f'pipeline("a text", width={width}, height={height}, num_inference_steps={manifest.num_inference_steps}, '
        f"guidance_scale={manifest.guidance_scale:g}).images[0]",
        "```",
        "",
    ]
    if manifest.kind == "student":
        count = len(manifest.covered_variants)
        prompts = "1 prompt" if count == 1 else f"{count} prompts"
        lines += [
            f"Use exactly this num_inference_steps and guidance_scale: the student was distilled for them from "
            f"{manifest.parent}, for {prompts}.",
            "A VAE of the class AutoencoderTiny can only decode: its encoder is all zeros, because text-to-image does "
            "not need it. Any other is the teacher's, because diffusers has no counterpart of this student's decoder.",
            "",
        ]
    return "\n".join(lines)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))

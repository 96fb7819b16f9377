"""Train the teacher U-Net on stored latents and captions.

v-prediction (Salimans & Ho 2022, arXiv 2202.00512) with zero terminal SNR (Lin et al. 2023, arXiv 2305.08891): the last
timestep is pure noise, in training and in sampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Generator, Tensor
from transformers import CLIPModel, CLIPTokenizer

from distillation.starter import clip as clips
from distillation.starter.captions import captions
from distillation.starter.latents import Latents
from distillation.starter.words import COMBINATIONS, NUMBERS, Combination
from distillation.trainers.objectives.batches import draw_timesteps
from distillation.training import loop, networks
from distillation.training.task import Trained, TrainingRecipe

# As in Stable Diffusion, except for the zero terminal SNR and the prediction type that it requires.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
BATCH = 64  # captions or validation latents per forward pass
VALIDATION_SEED = 20_240_501  # of the noise and timesteps in validation


@dataclass(frozen=True)
class TeacherRecipe(TrainingRecipe):
    """The network and its training.

    The learning rate has `warmup` steps of linear warm-up, stays constant, and has a cosine decay to zero over the last
    `falling` share of the steps. Timesteps are drawn with a density proportional to
    max(min(SNR, min_snr_gamma) ÷ (SNR + 1), weight_floor). Without the floor, this importance sampling has the expected
    gradient of min-SNR weighting for v (Hang et al. 2023, arXiv 2303.09556). The floor is necessary because these
    weights vanish at low SNR, where sampling starts: without it the noisiest 300 of 1000 timesteps, which decide colour
    and layout, get 1.6 % of the samples; with 0.35 a quarter.
    """

    channels: tuple[int, ...] = (64, 128, 256)  # per level; all levels but the last downsample by 2
    attends: tuple[bool, ...] = (False, True, True)  # whether the level has cross-attention
    layers: int = 2  # per block
    heads: int = 4  # per attention layer; their width is 32 and 64 at 128 and 256 channels
    norm_groups: int = 32
    steps: int = 12000
    batch: int = 32
    learning_rate: float = 6e-4
    warmup: int = 200
    falling: float = 0.4
    weight_decay: float = 0.01  # of matrices and convolution kernels only
    ema_decay: float = 0.999
    min_snr_gamma: float = 5.0
    weight_floor: float = 0.35
    empty_captions: float = 0.1  # share of empty captions, for classifier-free guidance
    is_bf16: bool = True  # forward and backward passes; weights and updates stay fp32
    is_channels_last: bool = False  # makes GroupNorm several times slower on a CPU
    validate_every: int = 250  # steps
    validated: int = 128  # latents


def noise_scheduler() -> DDIMScheduler:
    """Return the noise scheduler of training and sampling."""
    return DDIMScheduler(**SCHEDULER)


def build(
    recipe: TeacherRecipe, *, latent_channels: int, latent_size: int, text_width: int
) -> UNet2DConditionModel:
    """Return an untrained U-Net with the blocks of Stable Diffusion 1.5."""
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=recipe.channels,
        layers_per_block=recipe.layers,
        down_block_types=tuple(
            "CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in recipe.attends
        ),
        up_block_types=tuple(
            "CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(recipe.attends)
        ),
        cross_attention_dim=text_width,
        attention_head_dim=recipe.heads,  # despite its name the number of heads
        norm_num_groups=recipe.norm_groups,
    )


# --- captions -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Conditions:
    """embeds: fp32 [texts, tokens, width], the empty text first; rows: indices, int64 [combinations, captions]."""

    embeds: Tensor
    rows: Tensor  # in the order of COMBINATIONS, the canonical caption first

    @property
    def width(self) -> int:
        return self.embeds.shape[-1]


@torch.inference_mode()
def encode_captions(clip: CLIPModel, tokenizer: CLIPTokenizer) -> Conditions:
    """Return the embeddings of all captions of all combinations, encoded as the engine and diffusers encode prompts.

    An embedding is the last hidden state after the final LayerNorm, padded to the full length, without attention mask.
    """
    by_combination = [captions(combination) for combination in COMBINATIONS]
    texts = ["", *(text for phrasings in by_combination for text in phrasings)]
    ids = clips.tokenise(tokenizer, texts)
    embeds = torch.cat(
        [clip.text_model(input_ids=part).last_hidden_state.float() for part in ids.split(BATCH)]
    )
    rows = torch.arange(1, len(texts)).view(len(COMBINATIONS), len(by_combination[0]))
    return Conditions(embeds.clone(), rows)


# --- training -------------------------------------------------------------------------------------
class TeacherTask(Trained):
    """Training task of the teacher, for `distillation.training.loop`."""

    def __init__(
        self,
        recipe: TeacherRecipe,
        *,
        latents: Latents,
        validation: Latents,
        conditions: Conditions,
        unet: UNet2DConditionModel | None = None,
    ) -> None:
        """unet: the network to train; by default a new one."""
        super().__init__()
        _, _, channels, size, _ = latents.values.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.unet = unet or build(
                recipe, latent_channels=channels, latent_size=size, text_width=conditions.width
            )
        # Trains a quarter faster than with fused attention, whose backward pass is slow on a CPU.
        self.unet.set_attn_processor(AttnProcessor())
        self._layout = torch.channels_last if recipe.is_channels_last else torch.contiguous_format
        self.unet.to(memory_format=self._layout)
        self._recipe = recipe
        self._latents = latents.values
        self._numbers = _numbers(latents.combinations)
        self._conditions = conditions
        self._density = timestep_density(recipe)
        self._cumulative = self._density.cumsum(0)
        alphas = noise_scheduler().alphas_cumprod.float()
        self._signal, self._noise = alphas.sqrt(), (1 - alphas).sqrt()
        self._validation = self._validation_set(validation)
        self.add_by(recipe, "unet", self.unet, weight_decay=recipe.weight_decay)
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def averaged(self) -> UNet2DConditionModel:
        """The U-Net with averaged weights, which is saved."""
        return self.emas["unet"].module

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        recipe = self._recipe
        loop.set_learning_rate(self.optimizers["unet"], learning_rate(recipe, index))
        rows = self._rows(index)
        views = torch.randint(self._latents.shape[1], (recipe.batch,), generator=generator)
        latents = self._latents[rows, views].float()
        embeds = self._draw_captions(rows, generator)
        timesteps = draw_timesteps(self._cumulative, recipe.batch, generator)
        noise = torch.randn(latents.shape, generator=generator)
        loss = self._loss(self.unet, latents, noise, timesteps, embeds)
        norm = self.update("unet", loss, clipped_norm=recipe.clipped_norm)
        losses = {"loss": loss.item(), "gradient_norm": norm}
        if (index + 1) % recipe.validate_every == 0 or index + 1 == recipe.steps:
            losses["validation_loss"] = self._validate()
        return losses

    def _loss(
        self,
        unet: torch.nn.Module,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        embeds: Tensor,
    ) -> Tensor:
        """Return the MSE, a scalar, of v predicted at α · latents + σ · noise."""
        alpha = self._signal[timesteps].view(-1, 1, 1, 1)
        sigma = self._noise[timesteps].view(-1, 1, 1, 1)
        noisy = (alpha * latents + sigma * noise).contiguous(memory_format=self._layout)
        wanted = self._target(alpha * noise - sigma * latents, noisy, timesteps, embeds)
        return torch.nn.functional.mse_loss(self._predict(unet, noisy, timesteps, embeds), wanted)

    def _predict(
        self, unet: torch.nn.Module, noisy: Tensor, timesteps: Tensor, embeds: Tensor
    ) -> Tensor:
        """Return the predicted v, fp32, in the shape of `noisy`."""
        with networks.autocast(is_bf16=self._recipe.is_bf16):
            v_pred = unet(noisy, timesteps, encoder_hidden_states=embeds, return_dict=False)[0]
        return v_pred.float()

    def _target(self, v: Tensor, noisy: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        """Return what the network should predict. v: α · noise − σ · latents."""
        return v

    def _rows(self, index: int) -> Tensor:
        """Return the indices of the photographs of step `index`, int64 [batch], from shuffled epochs.

        They depend only on the seed and `index`.
        """
        count = len(self._latents)
        places = torch.arange(index * self._recipe.batch, (index + 1) * self._recipe.batch)
        rows = torch.empty_like(places)
        for epoch in (places // count).unique().tolist():
            if epoch != self._epoch:
                shuffled = Generator().manual_seed(self._recipe.seed * 1_000_003 + epoch)
                self._order = torch.randperm(count, generator=shuffled)
                self._epoch = epoch
            inside = places // count == epoch
            rows[inside] = self._order[places[inside] % count]
        return rows

    def _draw_captions(self, rows: Tensor, generator: Generator) -> Tensor:
        """Return the embedding of a random or the empty caption of each photograph, [batch, tokens, width]."""
        phrasings = self._conditions.rows[self._numbers[rows]]
        drawn = torch.randint(phrasings.shape[1], (len(rows), 1), generator=generator)
        is_kept = torch.rand(len(rows), generator=generator) >= self._recipe.empty_captions
        return self._conditions.embeds[phrasings.gather(1, drawn)[:, 0] * is_kept]

    def _validation_set(self, latents: Latents) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return fixed latents, noise, timesteps (stratified over the density) and embeddings of canonical captions."""
        count = min(self._recipe.validated, len(latents))
        rows = torch.linspace(0, len(latents) - 1, count).round().long()
        generator = Generator().manual_seed(VALIDATION_SEED)
        chosen = latents.values[rows, 0].float()
        noise = torch.randn(chosen.shape, generator=generator)
        timesteps = draw_timesteps(self._cumulative, count, generator)
        canonical = self._conditions.rows[_numbers(latents.combinations)[rows], 0]
        return chosen, noise, timesteps, self._conditions.embeds[canonical]

    @torch.no_grad()
    def _validate(self) -> float:
        """Return the validation loss of the averaged weights."""
        parts = zip(*(tensor.split(BATCH) for tensor in self._validation), strict=True)
        losses = [(self._loss(self.averaged, *part), len(part[0])) for part in parts]
        return float(sum(loss * count for loss, count in losses)) / len(self._validation[0])


def timestep_density(recipe: TeacherRecipe) -> Tensor:
    """Return the sampling probability of each timestep in training, float64 [timesteps]."""
    alphas = noise_scheduler().alphas_cumprod.double()
    # = min(SNR, γ) ÷ (SNR + 1), since SNR = ᾱ ÷ (1 − ᾱ); this form does not divide by zero.
    weights = torch.minimum(alphas, recipe.min_snr_gamma * (1 - alphas))
    weights = weights.clamp(min=recipe.weight_floor)
    return weights / weights.sum()


def learning_rate(recipe: TeacherRecipe, index: int) -> float:
    """Return the learning rate of step `index`, from 0."""
    begin = recipe.steps - round(recipe.steps * recipe.falling)
    if index < min(recipe.warmup, begin):
        return recipe.learning_rate * (index + 1) / recipe.warmup
    if index < begin:
        return recipe.learning_rate
    return loop.cosine(
        index - begin, steps=recipe.steps - begin, peak=recipe.learning_rate, warmup=0
    )


def train(
    recipe: TeacherRecipe,
    *,
    latents: Latents,
    validation: Latents,
    clip_folder: Path,
    tokenizer_folder: Path,
    folder: Path,
    progress_bar: bool,
) -> UNet2DConditionModel:
    """Train, resuming from the folder's checkpoint; save and return the U-Net with averaged weights, fp32.

    Writes folder/unet and folder/scheduler.
    """
    task = TeacherTask(
        recipe,
        latents=latents,
        validation=validation,
        conditions=read_conditions(clip_folder, tokenizer_folder),
    )
    return run(task, recipe, folder=folder, title="teacher", progress_bar=progress_bar)


def read_conditions(clip_folder: Path, tokenizer_folder: Path) -> Conditions:
    """Return the embeddings of all captions by the CLIP and the tokenizer of these folders."""
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    return encode_captions(clips.load(clip_folder), tokenizer)


def run(
    task: TeacherTask, recipe: TeacherRecipe, *, folder: Path, title: str, progress_bar: bool
) -> UNet2DConditionModel:
    """Train the task as `train` does."""
    loop.train(task, recipe, folder=folder, title=title, progress_bar=progress_bar)
    noise_scheduler().save_pretrained(Path(folder) / "scheduler")
    networks.save(task.averaged, Path(folder) / "unet")
    return networks.load(UNet2DConditionModel, Path(folder) / "unet")


def _numbers(combinations: Sequence[Combination]) -> Tensor:
    """Return the index of each combination in COMBINATIONS, int64 [N]."""
    return torch.tensor([NUMBERS[combination] for combination in combinations])

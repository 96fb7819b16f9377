"""Trains a student until its pictures are as likely to the teacher as to a score of its own (DMD2). Knows no pixels.

Yin et al., arXiv 2405.14867, with what a bounded catalogue allows: the pairs stay as a small regression, and the
teacher's accepted latents are the real ones of a light adversarial term. An update of the student comes after several
of the fake score, which must know the student's distribution as it is now.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor

from distillation.losses import adversarial, distribution_matching
from distillation.losses.noise_regression import guided
from distillation.trainers import discriminator, perception, rollout
from distillation.trainers import student as students
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.discriminator import AdversarialRecipe, Heads
from distillation.trainers.dmd2_recipe import MatchingRecipe
from distillation.trainers.pairs import Pairs
from distillation.trainers.real_images import Field
from distillation.trainers.rollout import Examples
from distillation.trainers.sample_sheets import Samples, sheet_of
from distillation.trainers.teacher import Teacher
from distillation.training import loop, networks, optimizers, processes
from distillation.training.ema import Ema
from distillation.training.errors import RecipeRefused

NOISED = (0.02, 0.98)  # of the training timesteps: where the scores are compared


class MatchingTask:
    """What is trained, for `distillation.training.loop`: an update of the student and the critics' before it."""

    def __init__(
        self,
        recipe: MatchingRecipe,
        *,
        teacher: Teacher,
        student: UNet2DConditionModel,
        decoder: AutoencoderTiny,
        pairs: Pairs,
        catalogue: Catalogue,
        timesteps: Sequence[int],
        structure: UNet2DConditionModel | None = None,
        field: Field | None = None,
    ) -> None:
        """structure: the student as the structure stage left it, for fake_score "student". field: accepted pictures,
        for the heads. Raises RecipeRefused."""
        self._timesteps = rollout.check(timesteps, teacher.schedule)
        self._recipe = recipe
        self._guidance_scale = _guidance_scale(recipe, teacher)
        if (structure is None) != (recipe.fake_score == "teacher"):
            raise RecipeRefused(
                f'fake_score is {recipe.fake_score!r}: the student of the structure stage is needed for "student", '
                "and for nothing else."
            )
        self._teacher = teacher
        self._field = field
        self._examples = Examples(teacher, pairs=pairs, catalogue=catalogue)
        self._perception = perception.make(recipe.perception, teacher=teacher, decoder=decoder)
        self._decoder = decoder
        self._batch = processes.share(recipe.batch)
        self._critic_batch = processes.share(recipe.critic_batch)
        self._paired = processes.share(recipe.paired)
        self.student = student.to(teacher.device).train().requires_grad_(True)
        self.fake = copy.deepcopy(teacher.unet if structure is None else structure)
        self.fake.to(teacher.device).train().requires_grad_(True)
        self._ema = Ema(self.student, recipe.ema_decay)
        self.modules: dict[str, torch.nn.Module] = {"student": self.student, "fake": self.fake}
        rates = {"student": recipe.learning_rate, "fake": recipe.fake_learning_rate}
        self._heads: Heads | None = None
        if recipe.adversarial is not None:
            self._heads = discriminator.make(recipe.adversarial, teacher=teacher, seed=recipe.seed)
            self.modules["heads"] = self._heads
            rates["heads"] = recipe.adversarial.learning_rate
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: optimizers.adamw(
                module,
                learning_rate=rates[name],
                weight_decay=recipe.weight_decay,
                betas=recipe.betas,
                fused=True,
            )
            for name, module in self.modules.items()
        }
        self.emas: dict[str, Ema] = {"student": self._ema}

    @property
    def averaged(self) -> UNet2DConditionModel:
        """What is worth saving."""
        student: UNet2DConditionModel = self._ema.module
        return student

    def pictures(self, samples: Samples) -> Tensor:
        """As the averaged student makes them now, drawn by the decoder that serves: [B, 3, H, W] in [−1, 1]."""
        latents = samples.walked(self.averaged, self._timesteps)
        return samples.drawn(self._decoder.decoder, latents)

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        for left in reversed(range(self._recipe.critic_updates)):
            # The heads are light: one update is enough for them. What may not lag behind is the fake score.
            measured = self._update_critics(index, generator, with_heads=left == 0)
        if index >= self._recipe.student_after:
            measured |= self._update_student(index, generator)
        if (index + 1) % self._recipe.watch_every == 0 or index + 1 == self._recipe.steps:
            measured |= rollout.watch(
                self.averaged,
                self._examples,
                teacher=self._teacher,
                timesteps=self._timesteps,
                count=self._recipe.watched,
            )
        return measured

    # --- the critics: what the student makes now --------------------------------------------------
    def _update_critics(
        self, index: int, generator: Generator, *, with_heads: bool
    ) -> dict[str, float]:
        """The fake score learns to denoise the student's images; the heads, to tell them from the teacher's."""
        recipe, schedule, examples = self._recipe, self._teacher.schedule, self._examples
        rows = examples.drawn(self._critic_batch, generator)
        embeds = examples.embeds(rows)
        with torch.no_grad():
            start = examples.fresh_noise(len(rows), generator)
            x = self._output(start, embeds, generator)
        times = self._timesteps_drawn(len(rows), 0, len(schedule), generator)
        noise = examples.fresh_noise(len(rows), generator)
        noised = schedule.noised(x, noise, times)
        with self._teacher.autocast():
            prediction = students.predict(self.fake, noised, times, embeds)
        loss = distribution_matching.fake_score_loss(
            prediction, self._wanted(x, noise, noised, times)
        )
        measured = {
            "fake_score": float(loss.detach()),
            "fake_gradient_norm": optimizers.update(
                self.optimizers["fake"], loss, clipped_norm=recipe.clipped_norm
            ),
        }
        if recipe.adversarial is None or self._heads is None:
            return measured
        if not with_heads or index < recipe.adversarial.learn_after:
            return measured
        real_x0 = examples.targets(rows)
        if self._field is not None:
            real_x0 = self._field.mixed_into(
                real_x0,
                examples.prompts(rows),
                share=recipe.adversarial.field_share,
                generator=generator,
            )
        real = schedule.noised(real_x0, noise, times)
        near = recipe.adversarial.r1_noise * examples.fresh_noise(len(rows), generator)
        loss, parts = discriminator.heads_loss(
            recipe.adversarial,
            self._heads,
            teacher=self._teacher,
            fake=noised,
            real=real,
            nearby=real + near,
            timesteps=times,
            prompt_embeds=embeds,
        )
        parts["heads_gradient_norm"] = optimizers.update(
            self.optimizers["heads"], loss, clipped_norm=recipe.clipped_norm
        )
        return measured | parts

    def _wanted(self, x: Tensor, noise: Tensor, noised: Tensor, times: Tensor) -> Tensor:
        """What the fake score should predict: as the teacher does, ε, v or x₀."""
        kind = self._teacher.schedule.prediction_type
        if kind == "epsilon":
            return noise  # from x₀ it would be divided by σ, which is next to nothing at the lowest timesteps
        return self._teacher.schedule.converted(x, noised, times, source="sample", target=kind)

    # --- the student ------------------------------------------------------------------------------
    def _update_student(self, index: int, generator: Generator) -> dict[str, float]:
        recipe, schedule = self._recipe, self._teacher.schedule
        rate = loop.cosine(
            index - recipe.student_after,
            steps=recipe.steps - recipe.student_after,
            peak=recipe.learning_rate,
            warmup=recipe.warmup,
            floor=recipe.final_learning_rate,
        )
        loop.set_learning_rate(self.optimizers["student"], rate)
        rows = self._examples.drawn(self._batch, generator)
        embeds = self._examples.embeds(rows)
        start = self._examples.fresh_noise(len(rows), generator)
        if self._paired:
            start[: self._paired] = self._examples.noise(rows[: self._paired])
        x = self._output(start, embeds, generator)
        low, high = (round(share * len(schedule)) for share in NOISED)
        times = self._timesteps_drawn(len(rows), low, high + 1, generator)
        noised = schedule.noised(x, self._examples.fresh_noise(len(rows), generator), times)

        heard = recipe.adversarial
        if heard is not None and index < heard.gan_after:
            heard = None
        logits, real_x0 = self._judged(noised, times, embeds, heard)
        with torch.no_grad(), self._teacher.autocast():
            fake_pred = students.predict(self.fake, noised.detach(), times, embeds)
        fake_x0 = schedule.as_x0(fake_pred, noised.detach(), times)
        weights = None
        if logits is not None:  # r, the ratio of the densities, is what the logits say
            weights = distribution_matching.f_distill_weights(
                logits,
                times,
                num_train_timesteps=len(schedule),
                divergence=recipe.divergence,
            )
        loss = distribution_matching.distribution_matching(x, real_x0, fake_x0, weights=weights)
        measured = {"matching": float(loss.detach())}
        if logits is not None and heard is not None:
            gan = adversarial.student_loss(logits)
            loss = loss + heard.gan_weight * gan
            measured["gan"] = float(gan.detach())
        if self._paired:
            targets = self._examples.targets(rows[: self._paired])
            held = self._perception.regression(x[: self._paired], targets)
            loss = loss + self._regression_weight(index) * held
            measured["regression"] = float(held.detach())
        measured["student_gradient_norm"] = optimizers.update(
            self.optimizers["student"], loss, clipped_norm=recipe.clipped_norm
        )
        self._ema.update()
        measured["latents_std"] = float(x.detach().std())
        measured["latents_mean"] = float(x.detach().mean())
        return measured

    def _judged(
        self, noised: Tensor, times: Tensor, embeds: Tensor, heard: AdversarialRecipe | None
    ) -> tuple[Tensor | None, Tensor]:
        """The heads' logits, if heard, with their gradient into `noised`, and the guided teacher's x̂₀, of one pass."""
        teacher, scale = self._teacher, self._guidance_scale
        still = noised.detach()
        if heard is None or self._heads is None:
            prediction = teacher.predict(still, times, embeds, guidance_scale=scale)
            return None, teacher.schedule.as_x0(prediction, still, times)
        prediction, maps = discriminator.prediction_and_features(
            teacher, noised, times, embeds, layers=heard.layers
        )
        if scale != 1 and teacher.negative is not None:
            empty = teacher.negative.expand(len(still), -1, -1)
            without = teacher.predict(still, times, empty, guidance_scale=1)
            prediction = guided(without, prediction, guidance_scale=scale)
        logits: Tensor = self._heads(maps)
        return logits, teacher.schedule.as_x0(prediction, still, times)

    def _regression_weight(self, index: int) -> float:
        recipe = self._recipe
        return loop.cosine(
            index,
            steps=recipe.steps,
            peak=recipe.regression_weight,
            warmup=0,
            floor=recipe.final_regression_weight,
        )

    # --- what both need ---------------------------------------------------------------------------
    def _output(self, noise: Tensor, embeds: Tensor, generator: Generator) -> Tensor:
        """`simulation.one_pass` from noise [B, C, h, w]."""
        return rollout.one_pass(
            self.student,
            noise,
            embeds,
            teacher=self._teacher,
            timesteps=self._timesteps,
            generator=generator,
        )

    def _timesteps_drawn(self, count: int, low: int, high: int, generator: Generator) -> Tensor:
        """int64 [count], low ≤ t < high."""
        return torch.randint(low, high, (count,), generator=generator).to(self._teacher.device)


def _guidance_scale(recipe: MatchingRecipe, teacher: Teacher) -> float:
    scale = teacher.guidance_scale if recipe.guidance_scale is None else recipe.guidance_scale
    if scale != 1 and teacher.negative is None:
        raise RecipeRefused(
            f"guidance_scale is {scale}, but {teacher.manifest.name} was registered without guidance and stores no "
            "embeddings of the empty text: leave guidance_scale out, or register the teacher with --guidance."
        )
    return scale


def train(
    recipe: MatchingRecipe,
    *,
    teacher: Teacher,
    student: UNet2DConditionModel,
    decoder: AutoencoderTiny,
    pairs: Pairs,
    catalogue: Catalogue,
    timesteps: tuple[int, ...],
    folder: Path,
    structure: UNet2DConditionModel | None = None,
    field: Field | None = None,
    progress_bar: bool = True,
    samples: Samples | None = None,
) -> UNet2DConditionModel:
    """Train (going on from the folder's checkpoint); save the averaged student in folder/unet and give it, frozen.

    student: of the regression stage, fp32, changed in place. pairs: of the training split; only accepted ones are used.
    timesteps: those the student is served in, descending. structure: the student of the structure stage, for a
    fake_score that starts there. field: accepted pictures, which the heads take for real beside the teacher's. samples:
    whose sheet is drawn now and then; None = none. Raises RecipeRefused, TrainingDiverged, CheckpointUnusable.
    """
    task = MatchingTask(
        recipe,
        teacher=teacher,
        student=student,
        decoder=decoder,
        pairs=pairs,
        catalogue=catalogue,
        timesteps=timesteps,
        structure=structure,
        field=field,
    )
    loop.run(
        task,
        folder,
        steps=recipe.steps,
        seed=recipe.seed,
        title="matching",
        progress_bar=progress_bar,
        draw=sheet_of(samples, folder, task.pictures),
    )
    networks.save(task.averaged, Path(folder) / "unet")
    return task.averaged

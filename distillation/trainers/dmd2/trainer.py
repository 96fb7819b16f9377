"""Stage `matching`: distribution matching by DMD2, with the teacher's score and a fake score of the student's pictures.

Yin et al., arXiv 2405.14867, with two terms that a bounded catalogue allows: a small regression on the pairs, and a
light adversarial loss whose real samples are the teacher's accepted latents. Every update of the student follows
several of the fake score, which must track the student's present distribution.
"""

import copy

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor

from distillation.losses import adversarial, distribution_matching
from distillation.losses.noise_regression import noise_regression
from distillation.trainers import perception
from distillation.trainers.dmd2 import discriminator
from distillation.trainers.dmd2.discriminator import AdversarialRecipe, Heads
from distillation.trainers.dmd2.recipe import MatchingRecipe
from distillation.trainers.few_step import FewStepTask
from distillation.trainers.inputs import TuningInputs, run
from distillation.training import loop, networks, processes
from distillation.training.errors import RecipeRefused

NOISED = (0.02, 0.98)  # of the training timesteps: where the scores are compared


class MatchingTask(FewStepTask):
    """The student and its critics under training, for `distillation.training.loop`."""

    def __init__(self, recipe: MatchingRecipe, inputs: TuningInputs) -> None:
        """Raises RecipeRefused where the recipe contradicts the teacher or the inputs."""
        super().__init__(inputs, pairs=inputs.pairs)
        self._recipe = recipe
        self._guidance_scale = inputs.teacher.scale_of(
            recipe.guidance_scale, field="guidance_scale"
        )
        if (inputs.structure is not None) != recipe.needs_structure:
            raise RecipeRefused(
                f'fake_score is {recipe.fake_score!r}: the student of the structure stage is needed for "student", '
                "and for nothing else."
            )
        self._real_images = inputs.real_images
        self._perception = perception.make(
            recipe.perception, teacher=inputs.teacher, decoder=inputs.decoder
        )
        self._batch = processes.share(recipe.batch)
        self._critic_batch = processes.share(recipe.critic_batch)
        self._paired = processes.share(recipe.paired)
        self.fake = copy.deepcopy(inputs.structure or inputs.teacher.unet)
        self.fake.to(inputs.teacher.device).train().requires_grad_(True)
        self._add("student", self.student, recipe.learning_rate, ema_decay=recipe.ema_decay)
        self._add("fake", self.fake, recipe.fake_learning_rate)
        self._heads: Heads | None = None
        if recipe.adversarial is not None:
            self._heads = discriminator.make(
                recipe.adversarial, teacher=inputs.teacher, seed=recipe.seed
            )
            self._add("heads", self._heads, recipe.adversarial.learning_rate)

    def _add(
        self, name: str, module: torch.nn.Module, rate: float, *, ema_decay: float | None = None
    ) -> None:
        self.add(
            name,
            module,
            learning_rate=rate,
            weight_decay=self._recipe.weight_decay,
            betas=self._recipe.betas,
            ema_decay=ema_decay,
        )

    def step(self, index: int, generator: Generator) -> dict[str, float]:
        for left in reversed(range(self._recipe.critic_updates)):
            # One update is enough for the small heads; only the fake score must not lag behind the student.
            measured = self._update_critics(index, generator, with_heads=left == 0)
        if index >= self._recipe.student_after:
            measured |= self._update_student(index, generator)
        return measured | self._watch(index, self._recipe)

    # --- the critics ------------------------------------------------------------------------------
    def _update_critics(
        self, index: int, generator: Generator, *, with_heads: bool
    ) -> dict[str, float]:
        """Train the fake score to denoise the student's images, and the heads to tell them from the teacher's."""
        schedule, examples = self._teacher.schedule, self._examples
        rows = examples.drawn(self._critic_batch, generator)
        embeds = examples.embeds(rows)
        with torch.no_grad():
            start = examples.fresh_noise(len(rows), generator)
            x = self._rollout.one_pass(self.student, start, embeds, generator)
        times = self._timesteps_drawn(len(rows), 0, len(schedule), generator)
        noise = examples.fresh_noise(len(rows), generator)
        noised = schedule.noised(x, noise, times)
        prediction = self._teacher.passed(self.fake, noised, times, embeds)
        loss = noise_regression(prediction, self._wanted(x, noise, noised, times))
        measured = {
            "fake_score": float(loss.detach()),
            "fake_gradient_norm": self.update("fake", loss, clipped_norm=self._recipe.clipped_norm),
        }
        gan = self._recipe.adversarial
        if gan is None or self._heads is None or not with_heads or index < gan.learn_after:
            return measured
        real = schedule.noised(self._real(gan, rows, generator), noise, times)
        near = gan.r1_noise * examples.fresh_noise(len(rows), generator)
        loss, parts = discriminator.heads_loss(
            gan,
            self._heads,
            teacher=self._teacher,
            fake=noised,
            real=real,
            nearby=real + near,
            timesteps=times,
            prompt_embeds=embeds,
        )
        return (
            measured
            | parts
            | {
                "heads_gradient_norm": self.update(
                    "heads", loss, clipped_norm=self._recipe.clipped_norm
                )
            }
        )

    def _real(self, recipe: AdversarialRecipe, rows: Tensor, generator: Generator) -> Tensor:
        """Return the heads' real latents, [B, C, h, w]: the teacher's, some replaced by those of accepted pictures."""
        targets = self._examples.targets(rows)
        if self._real_images is None:
            return targets
        return self._real_images.mixed_into(
            targets, self._examples.prompts(rows), share=recipe.field_share, generator=generator
        )

    def _wanted(self, x: Tensor, noise: Tensor, noised: Tensor, times: Tensor) -> Tensor:
        """Return the target of the fake score, [B, C, h, w], in the teacher's prediction type: ε, v or x₀."""
        kind = self._teacher.schedule.prediction_type
        if kind == "epsilon":
            return noise  # a conversion from x₀ would divide by σ, which is nearly 0 at the lowest timesteps
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
        x = self._rollout.one_pass(self.student, start, embeds, generator)
        low, high = (round(share * len(schedule)) for share in NOISED)
        times = self._timesteps_drawn(len(rows), low, high + 1, generator)
        noised = schedule.noised(x, self._examples.fresh_noise(len(rows), generator), times)

        loss, measured = self._matching(index, x, noised, times, embeds)
        if self._paired:
            targets = self._examples.targets(rows[: self._paired])
            held = self._perception.regression(x[: self._paired], targets)
            loss = loss + self._regression_weight(index) * held
            measured["regression"] = float(held.detach())
        measured["student_gradient_norm"] = self.update(
            "student", loss, clipped_norm=recipe.clipped_norm
        )
        measured["latents_std"] = float(x.detach().std())
        measured["latents_mean"] = float(x.detach().mean())
        return measured

    def _matching(
        self, index: int, x: Tensor, noised: Tensor, times: Tensor, embeds: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the matching loss, with the adversarial term from `gan_after` on, and its parts by name."""
        recipe, schedule = self._recipe, self._teacher.schedule
        gan = recipe.adversarial
        if gan is not None and index < gan.gan_after:
            gan = None
        logits, real_x0 = self._judged(noised, times, embeds, gan)
        with torch.no_grad():
            fake_pred = self._teacher.passed(self.fake, noised.detach(), times, embeds)
        fake_x0 = schedule.as_x0(fake_pred, noised.detach(), times)
        weights = None
        if logits is not None:  # they estimate r, the ratio of the densities
            weights = distribution_matching.f_distill_weights(
                logits, times, num_train_timesteps=len(schedule)
            )
        loss = distribution_matching.distribution_matching(x, real_x0, fake_x0, weights=weights)
        measured = {"matching": float(loss.detach())}
        if logits is not None and gan is not None:
            gan_loss = adversarial.student_loss(logits)
            loss = loss + gan.gan_weight * gan_loss
            measured["gan"] = float(gan_loss.detach())
        return loss, measured

    def _judged(
        self, noised: Tensor, times: Tensor, embeds: Tensor, gan: AdversarialRecipe | None
    ) -> tuple[Tensor | None, Tensor]:
        """Return the heads' logits (None without gan), differentiable in `noised`, and the teacher's x̂₀ of one pass."""
        teacher, scale = self._teacher, self._guidance_scale
        still = noised.detach()
        if gan is None or self._heads is None:
            prediction = teacher.predict(still, times, embeds, guidance_scale=scale)
            return None, teacher.schedule.as_x0(prediction, still, times)
        prediction, maps = discriminator.prediction_and_features(
            teacher, noised, times, embeds, layers=gan.layers
        )
        prediction = teacher.guide(prediction, still, times, guidance_scale=scale)
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

    def _timesteps_drawn(self, count: int, low: int, high: int, generator: Generator) -> Tensor:
        """Draw int64 [count], low ≤ t < high."""
        return torch.randint(low, high, (count,), generator=generator).to(self._teacher.device)


def train(recipe: MatchingRecipe, inputs: TuningInputs) -> UNet2DConditionModel:
    """Train (resuming from the folder's checkpoint); save the averaged student in folder/unet and return it, frozen.

    The student, of the regression stage, is changed in place. Raises RecipeRefused,
    TrainingDiverged, CheckpointUnusable.
    """
    task = MatchingTask(recipe, inputs)
    run(task, recipe, inputs, title="matching", pictures=task.pictures)
    networks.save(task.averaged, inputs.folder / "unet")
    return task.averaged

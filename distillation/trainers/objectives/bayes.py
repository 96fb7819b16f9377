"""Method `bayes`: the student's prior is the teacher's posterior, restricted to the student's structure.

After Grabovoy & Strijov, "Bayesian distillation of deep learning models", Automation and Remote Control 82(11), 2021.
The posterior is a Laplace approximation with the teacher's own loss; removed weights are conditioned on zero
(`students.pruning`).
"""

from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor, nn

from distillation.losses.bayes import DiagonalGaussian, divergence, prior_penalty
from distillation.losses.noise_regression import noise_regression
from distillation.trainers.objectives import posterior as posteriors
from distillation.trainers.objectives.batches import Batch
from distillation.trainers.objectives.posterior import Estimate, PosteriorRecipe
from distillation.trainers.objectives.protocol import Sources, StudentObjective
from distillation.trainers.student import reduce
from distillation.training import checks

FORMS = ("point", "kl")
INITIAL_VARIANCE = 1e-6  # of a weight; less where the prior is narrower
SPEED = 30.0  # factor of the learning rate of log variances relative to that of weights


@dataclass(frozen=True)
class BayesRecipe:
    """‖ε_w − ε_S‖² + 2τ²/d · (β/N) · (−log prior, or KL), the evidence bound per example in units of the first term.

    form: "point", a point estimate; or "kl", a normal distribution of each weight, trained with the reparametrisation
    trick, whose means are kept. beta: β, 1 for Bayes' rule, under which weights hardly change if there are far more of
    them than examples (at the weights that the starter's tiny cut reaches without a prior, the prior's term would be
    0.18, the error 0.009); less for a tempered prior. examples: N, None = the number of pairs. fisher_batches,
    fisher_batch: number and size of the batches for the Fisher information; precision: λ of the teacher's prior.
    initial_variance: of each weight, only for "kl". guidance_scale: w, None = the teacher's own.
    """

    method: str = "bayes"
    form: str = "point"
    beta: float = 1e-2
    examples: int | None = None
    fisher_batches: int = 128
    fisher_batch: int = 8
    precision: float = 1.0
    initial_variance: float | None = None
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        checks.one_of(self, "method", ("bayes",))
        checks.one_of(self, "form", FORMS)
        checks.not_negative(self, "beta", "precision")
        checks.at_least_1(self, "examples", "fisher_batches", "fisher_batch")
        checks.positive(self, "initial_variance", "guidance_scale")
        if self.form == "point" and self.initial_variance is not None:
            raise ValueError("initial_variance needs the form kl; the form point has no variances.")

    def estimate(self, sources: Sources) -> Estimate:
        """Return the teacher's posterior; the first call stores it in the stage's folder, later ones read it."""
        return posteriors.estimate(
            PosteriorRecipe(
                batches=self.fisher_batches, examples=self.examples, precision=self.precision
            ),
            teacher=sources.teacher,
            batches=sources.batches.only_noised(self.fisher_batch),
            examples=len(sources.inputs.pairs),
            folder=sources.inputs.folder,
            progress_bar=sources.inputs.progress_bar,
        )

    def make(self, sources: Sources, student: UNet2DConditionModel) -> "Bayes":
        return Bayes(self, sources, student)


class LogVariances(nn.Module):
    """log s² of each of a network's parameters."""

    def __init__(self, initial: list[Tensor]) -> None:
        """initial: s², one of each parameter's shape, in the parameters' order."""
        super().__init__()
        self.values = nn.ParameterList([value.log() / SPEED for value in initial])

    def variances(self) -> list[Tensor]:
        return [(SPEED * value).exp() for value in self.values]


class Bayes(StudentObjective):
    """See BayesRecipe."""

    def __init__(
        self, recipe: BayesRecipe, sources: Sources, student: UNet2DConditionModel
    ) -> None:
        self._recipe = recipe
        super().__init__(sources, student, recipe.guidance_scale)
        known = recipe.estimate(sources)
        made = reduce(sources.teacher, sources.student_recipe, posterior=known.posterior)
        prior = made.prior or known.posterior
        device = sources.teacher.device
        names = [name for name, _ in student.named_parameters()]
        self.prior = DiagonalGaussian(
            [prior.mean[name].to(device) for name in names],
            [prior.variance[name].to(device) for name in names],
        )
        self._examples = known.examples
        self._nats = 2 * known.variance / known.values  # mean squared error per nat of an example
        if recipe.form == "kl":
            largest = recipe.initial_variance or INITIAL_VARIANCE
            initial = [value.clamp(max=largest) for value in self.prior.variances]
            self._logarithms = LogVariances(initial)
            self.modules = {"log_variances": self._logarithms}

    def losses(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        beta, examples = self._recipe.beta, self._examples
        if self._recipe.form == "point":
            prediction = self._teacher.passed(self._student, *batch.inputs)
            weights = list(self._student.parameters())
            prior = prior_penalty(weights, self.prior, beta=beta, examples=examples)
        else:
            posterior = DiagonalGaussian(
                list(self._student.parameters()), self._logarithms.variances()
            )
            prediction = self._drawn(posterior, batch, generator)
            prior = divergence(posterior, self.prior, beta=beta, examples=examples)
        target = self._teacher.predict(*batch.inputs, guidance_scale=self._scale)
        return {"guided": noise_regression(prediction, target), "prior": self._nats * prior}

    def _drawn(self, posterior: DiagonalGaussian, batch: Batch, generator: Generator) -> Tensor:
        """Return the prediction of a student drawn from q: w = μ + s ξ, with gradients in μ and s."""
        seed = int(torch.randint(2**62, (1,), generator=generator))
        device = self._teacher.device
        draws = torch.Generator(device).manual_seed(seed)
        weights = {
            name: mean + variance.sqrt() * torch.randn(mean.shape, generator=draws, device=device)
            for (name, mean), variance in zip(
                self._student.named_parameters(), posterior.variances, strict=True
            )
        }
        with self._teacher.autocast():
            output: Tensor = torch.func.functional_call(
                self._student,
                weights,
                (batch.latents, batch.timesteps),
                {"encoder_hidden_states": batch.prompt_embeds, "return_dict": False},
            )[0]
        return output.float()

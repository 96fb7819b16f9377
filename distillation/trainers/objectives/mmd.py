"""Method `mmd`: MMD between each layer of the student and the teacher's layers of similar depth, and the output error.

Huang & Wang, arXiv 1707.01219. Layers: the outputs of all residual blocks, attentions and stages. Channels are the
samples, so a student of any cut and any width has such pairs.
"""

import re
from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Generator, Tensor

from distillation.losses.mmd import Kernel, depth_weights, gaussian, layers_mmd2, linear, polynomial
from distillation.trainers.objectives.batches import Batch
from distillation.trainers.objectives.protocol import Sources, StudentObjective
from distillation.trainers.perception import tapped
from distillation.training import checks

KERNELS: dict[str, Kernel] = {
    function.__name__: function for function in (linear, polynomial, gaussian)
}
_LAYER = re.compile(
    r"(down_blocks|up_blocks)\.\d+(\.(resnets|attentions)\.\d+)?|mid_block(\.(resnets|attentions)\.\d+)?"
)


@dataclass(frozen=True)
class MmdRecipe:
    """‖ε_w − ε_S‖² + ½ mmd_weight · the mean over the student's layers of Σ_l ω_l MMD² to the teacher's layers l.

    kernel: one of KERNELS. reach: distance of two layers, as a share of the depth (`losses.mmd.depth_weights`).
    nearest: number of teacher layers per student layer, those of the largest ω; 0 = all, which costs the most.
    samples: number of samples whose layers are compared, drawn from the batch in each step; MMD² is a mean over
    samples, so fewer make it noisier, not biased. guidance_scale: w, None = the teacher's own.
    """

    method: str = "mmd"
    kernel: str = "polynomial"
    mmd_weight: float = 1.0
    reach: float = 0.1
    nearest: int = 3
    samples: int = 8
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        checks.one_of(self, "method", ("mmd",))
        checks.one_of(self, "kernel", KERNELS)
        checks.positive(self, "mmd_weight", "reach", "guidance_scale")
        checks.not_negative(self, "nearest")
        checks.at_least_1(self, "samples")

    def make(self, sources: Sources, student: UNet2DConditionModel) -> "Mmd":
        return Mmd(self, sources, student)


class Mmd(StudentObjective):
    """See MmdRecipe."""

    def __init__(self, recipe: MmdRecipe, sources: Sources, student: UNet2DConditionModel) -> None:
        self._recipe = recipe
        super().__init__(sources, student, recipe.guidance_scale)
        probe = sources.batches.draw(torch.Generator().manual_seed(0))
        theirs = _heights(sources.teacher.unet, sources, probe)
        ours = _heights(student, sources, probe)
        self.teacher_layers, self.student_layers = tuple(theirs), tuple(ours)
        weights = depth_weights(_depths(ours), _depths(theirs), reach=recipe.reach)
        self._weights = nearest(weights, recipe.nearest) / len(ours)

    def losses(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        samples = torch.randperm(len(batch.latents), generator=generator)[: self._recipe.samples]
        passed = self._passed(batch, samples)
        kernel = KERNELS[self._recipe.kernel]
        layers = layers_mmd2(passed.ours, passed.theirs, weights=self._weights, kernel=kernel)
        return {"guided": passed.guided, "mmd": 0.5 * self._recipe.mmd_weight * layers}


def nearest(weights: Tensor, count: int) -> Tensor:
    """Return weights [L_S, L_T] with each row's `count` largest values normalised to sum 1, the others 0; 0 = all."""
    if not count or count >= weights.shape[1]:
        return weights
    values, places = weights.topk(count, dim=1)
    return torch.zeros_like(weights).scatter(1, places, values / values.sum(1, keepdim=True))


@torch.no_grad()
def _heights(network: UNet2DConditionModel, sources: Sources, probe: Batch) -> dict[str, int]:
    """Return the height of each layer's feature map, in the order of the pass."""
    names = [name for name, _ in network.named_modules() if _LAYER.fullmatch(name)]
    with tapped(network, names) as outputs:
        sources.teacher.passed(network, *probe.inputs)
    return {name: output.shape[2] for name, output in outputs.items()}


def _depths(heights: dict[str, int]) -> list[tuple[float, int]]:
    """Return (depth from 0 at the first layer to 1 at the last, height) of each layer."""
    last = max(1, len(heights) - 1)
    return [(place / last, height) for place, height in enumerate(heights.values())]

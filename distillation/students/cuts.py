"""The table of what a student keeps of its teacher's blocks, and the student's configuration. Knows no weights.

The three cuts of BK-SDM (Kim et al., ECCV 2024, arXiv 2305.15798), for any teacher of SD 1.5's block types.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distillation.students import unets
from distillation.students.errors import StudentRefused
from distillation.students.unets import Config

LAYERS = 2  # of a teacher's down stage; its up stages have one more


@dataclass(frozen=True)
class Cut:
    """Layers are pairs of a residual block and, where the stage attends, an attention."""

    name: str
    down_layers: tuple[int, ...]  # of each down stage the teacher's layers that are kept, in order
    up_layers: tuple[int, ...]
    is_mid_kept: bool
    inner_stages_removed: int  # of the lowest resolution, on the way down and on the way up


CUTS: dict[str, Cut] = {
    cut.name: cut
    for cut in (
        Cut("base", (0,), (0, 2), is_mid_kept=True, inner_stages_removed=0),
        Cut("small", (0,), (0, 2), is_mid_kept=False, inner_stages_removed=0),
        Cut("tiny", (0,), (0, 2), is_mid_kept=False, inner_stages_removed=1),
    )
}


def cut_named(name: str) -> Cut:
    """Of the table. Raises StudentRefused."""
    if name not in CUTS:
        raise StudentRefused(f"There is no cut {name!r}: choose one of {', '.join(CUTS)}.")
    return CUTS[name]


def student_config(teacher_config: Mapping[str, Any], cut: Cut) -> Config:
    """The student's configuration, complete. Raises StudentRefused if the teacher cannot be cut so."""
    config = unets.complete(teacher_config)
    layers = unets.per_level(config, "layers_per_block")
    if set(layers) != {LAYERS}:
        raise StudentRefused(
            f"layers_per_block is {config['layers_per_block']!r}; the cut {cut.name!r} is made of teachers "
            f"with {LAYERS} layers in each block. Cut such a teacher in width instead."
        )
    if not cut.is_mid_kept and config["mid_block_type"] is None:
        raise StudentRefused(
            f"The teacher has no mid block (mid_block_type) for {cut.name!r} to remove."
        )
    levels = len(config["block_out_channels"])
    kept = levels - cut.inner_stages_removed
    if kept < 1:
        raise StudentRefused(
            f"The cut {cut.name!r} removes the innermost {cut.inner_stages_removed} of its {levels} levels "
            "(block_out_channels), which leaves none. Use 'base' or 'small', or a teacher of more levels."
        )
    student: Config = {
        **config,
        "block_out_channels": config["block_out_channels"][:kept],
        "down_block_types": config["down_block_types"][:kept],
        "up_block_types": config["up_block_types"][cut.inner_stages_removed :],
        "mid_block_type": config["mid_block_type"] if cut.is_mid_kept else None,
    }
    for field in unets.PER_LEVEL:
        if isinstance(config[field], tuple):
            student[field] = config[field][:kept]
    student["layers_per_block"] = len(cut.down_layers)
    if not unets.sees_prompt(student):
        raise StudentRefused(
            f"The cut {cut.name!r} leaves no block with cross-attention, so the student would not see the prompt. "
            "Use a cut that keeps one, or a teacher that attends at a higher resolution."
        )
    return student


def feature_pairs(teacher_config: Mapping[str, Any], cut: Cut) -> tuple[tuple[str, str], ...]:
    """(teacher's module, student's module) whose outputs have one shape: what feature losses compare.

    The outputs of all stages that both have. Where the student's lowest stage lost its downsampler, the output of the
    last kept layer before it stands for the stage: of the attention's proj_out, or of the residual block (BK-SDM).
    """
    student = student_config(teacher_config, cut)
    last = len(student["block_out_channels"]) - 1
    pairs = []
    for level, kind in enumerate(student["down_block_types"]):
        stage = f"down_blocks.{level}"
        if level < last or not cut.inner_stages_removed:
            pairs.append((stage, stage))
        else:
            part = "attentions.{}.proj_out" if unets.ATTENDS[kind] else "resnets.{}"
            of_teacher, of_student = part.format(LAYERS - 1), part.format(len(cut.down_layers) - 1)
            pairs.append((f"{stage}.{of_teacher}", f"{stage}.{of_student}"))
    if student["mid_block_type"] is not None:
        pairs.append(("mid_block", "mid_block"))
    pairs += [
        (f"up_blocks.{stage + cut.inner_stages_removed}", f"up_blocks.{stage}")
        for stage in range(last + 1)
    ]
    return tuple(pairs)

"""Table of the blocks that a student keeps of its teacher, and the student's shape.

The three cuts of BK-SDM (Kim et al., ECCV 2024, arXiv 2305.15798), for any teacher of SD 1.5's block types. `…-low`
also removes the attentions of the highest resolution that has some, where they cost most and depend least on the
prompt; `…-least` the block whose removal costs least by the weights' posterior (`pruning.without_least`).
"""

from dataclasses import dataclass, replace

from distillation.students.errors import StudentRefused
from distillation.students.unets import ATTENDS, PER_LEVEL, UNetShape

LAYERS = 2  # of a teacher's down stage; its up stages have one more


@dataclass(frozen=True)
class Cut:
    """Layers are pairs of a residual block and, where the stage attends, an attention."""

    name: str
    down_layers: tuple[int, ...]  # of each down stage the teacher's layers that are kept, in order
    up_layers: tuple[int, ...]
    is_mid_kept: bool
    inner_stages_removed: int  # of the lowest resolution, on the way down and on the way up
    # Levels that lose their attentions: places among those that attend, from the highest resolution down.
    without_attention: tuple[int, ...] = ()
    loses_least: bool = False  # one more block is removed, chosen by the weights


_PUBLISHED = (
    Cut("base", (0,), (0, 2), is_mid_kept=True, inner_stages_removed=0),
    Cut("small", (0,), (0, 2), is_mid_kept=False, inner_stages_removed=0),
    Cut("tiny", (0,), (0, 2), is_mid_kept=False, inner_stages_removed=1),
)
CUTS: dict[str, Cut] = {
    cut.name: cut
    for cut in (
        *_PUBLISHED,
        *(replace(cut, name=f"{cut.name}-low", without_attention=(0,)) for cut in _PUBLISHED),
        *(replace(cut, name=f"{cut.name}-least", loses_least=True) for cut in _PUBLISHED),
    )
}


def cut_named(name: str) -> Cut:
    """Return the cut of this name. Raises StudentRefused."""
    if name not in CUTS:
        raise StudentRefused(f"There is no cut {name!r}: choose one of {', '.join(CUTS)}.")
    return CUTS[name]


def student_shape(teacher: UNetShape, cut: Cut) -> UNetShape:
    """Return the shape of the cut teacher. Raises StudentRefused if the teacher cannot be cut so."""
    config = teacher.config
    if set(teacher.layers) != {LAYERS}:
        raise StudentRefused(
            f"layers_per_block is {config['layers_per_block']!r}; the cut {cut.name!r} is made of teachers "
            f"with {LAYERS} layers in each block. Cut such a teacher in width instead."
        )
    if not cut.is_mid_kept and not teacher.has_mid:
        raise StudentRefused(
            f"The teacher has no mid block (mid_block_type) for {cut.name!r} to remove."
        )
    kept = teacher.levels - cut.inner_stages_removed
    if kept < 1:
        raise StudentRefused(
            f"The cut {cut.name!r} removes the innermost {cut.inner_stages_removed} of its {teacher.levels} levels "
            "(block_out_channels), which leaves none. Use 'base' or 'small', or a teacher of more levels."
        )
    lists = {field: config[field][:kept] for field in PER_LEVEL if isinstance(config[field], tuple)}
    student = teacher.changed(
        lists
        | {
            "block_out_channels": teacher.widths[:kept],
            "down_block_types": _attending(teacher.down[:kept], cut),
            "up_block_types": _attending(teacher.up[cut.inner_stages_removed :][::-1], cut)[::-1],
            "mid_block_type": config["mid_block_type"] if cut.is_mid_kept else None,
            "layers_per_block": len(cut.down_layers),
        }
    )
    if not student.sees_prompt:
        raise StudentRefused(
            f"The cut {cut.name!r} leaves no block with cross-attention, so the student would not see the prompt. "
            "Use a cut that keeps one, or a teacher that attends at a higher resolution."
        )
    return student


def _attending(kinds: tuple[str, ...], cut: Cut) -> tuple[str, ...]:
    """Return the block types, from the highest resolution down, of which the cut removes attentions."""
    found, place = [], -1
    for kind in kinds:
        place += ATTENDS[kind]
        is_plain = place in cut.without_attention
        found.append(kind.removeprefix("CrossAttn") if is_plain else kind)
    return tuple(found)


def feature_pairs(teacher: UNetShape, cut: Cut) -> tuple[tuple[str, str], ...]:
    """Return (teacher's module, student's module) whose outputs have one shape, for feature losses to compare.

    The outputs of all stages that both have. If the student's lowest stage lost its downsampler, the output of the
    last kept layer before it is used instead: of the attention's proj_out, or of the residual block (BK-SDM).
    """
    student = student_shape(teacher, cut)
    last = student.levels - 1
    pairs = []
    for level, kind in enumerate(student.down):
        stage = f"down_blocks.{level}"
        if level < last or not cut.inner_stages_removed:
            pairs.append((stage, stage))
        else:
            part = "attentions.{}.proj_out" if ATTENDS[kind] else "resnets.{}"
            of_teacher, of_student = part.format(LAYERS - 1), part.format(len(cut.down_layers) - 1)
            pairs.append((f"{stage}.{of_teacher}", f"{stage}.{of_student}"))
    if student.has_mid:
        pairs.append(("mid_block", "mid_block"))
    pairs += [
        (f"up_blocks.{stage + cut.inner_stages_removed}", f"up_blocks.{stage}")
        for stage in range(last + 1)
    ]
    return tuple(pairs)

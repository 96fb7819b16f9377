"""What each judge of an evaluation cannot see. Written beside its verdicts."""

from collections.abc import Iterable

DETECTOR, CLIP, SHARPNESS, DIVERSITY, SETS = "detector", "clip", "sharpness", "diversity", "sets"
BLIND_TO = {
    DETECTOR: "It looks for the words of a prompt, and the same network chose the pictures to train on. A right "
    "picture may be blurred, bent, or lack a part that no word names.",
    CLIP: "It compares a picture with its text as a whole. Blur, a missing part and the number of things hardly "
    "change its score.",
    SHARPNESS: "It measures differences between neighbouring pixels. Noise and blocks count as sharp, and it does not "
    "look at what is shown or where.",
    DIVERSITY: "It measures how pictures of one prompt differ. Faults that differ count as diversity.",
    SETS: "KID and CMMD hardly change when pictures are blurred; the distance of texture does, but does not see what "
    "is shown. A set may be near although single pictures are bad.",
}
JUDGE_OF = {  # by field of Margins
    "attributes_right": DETECTOR,
    "worst_prompts": DETECTOR,
    "each_prompt": DETECTOR,
    "clip_score": CLIP,
    "diversity": DIVERSITY,
    "sharpness": SHARPNESS,
}


def of(measures: Iterable[str]) -> dict[str, str]:
    """Return what the judges of these measures cannot see, by judge."""
    judges = dict.fromkeys(JUDGE_OF[measure] for measure in measures)
    return {judge: BLIND_TO[judge] for judge in judges}

"""Names, summaries and fields of the recipes. Loads no torch: the web process offers them."""

_METHOD = "The structure stage alone, ten passes."

# Fields that a run may change; `recipes.Recipe` has them.
FIELDS = (
    "name", "summary", "image_size", "timesteps", "student", "pairs", "decoder", "structure", "regression", "matching",
    "joint", "again", "quantise", "evaluation", "gate",
)  # fmt: skip

SUMMARIES: dict[str, str] = {
    "starter-1step": "The starter's student: one pass of the tiny cut.",
    "starter-2step": "Two passes of the tiny cut.",
    "sd15-tiny-1step": "Stable Diffusion 1.5 at 512 × 512: one pass of BK-SDM's tiny cut.",
    "hinton": f"Soft and hard targets (Hinton et al. 2015). {_METHOD}",
    "ensemble": f"Several teachers, weighted by their agreement. {_METHOD}",
    "mmd": f"MMD between the outputs of all layers (Huang & Wang 2017). {_METHOD}",
    "bayes": f"The teacher's posterior as the student's prior (Grabovoy & Strijov 2021). {_METHOD}",
}

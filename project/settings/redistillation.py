"""Redistillation: recipes, promotion, image sources, and when a run starts."""

from project.settings import environment

DISTILLATION_RECIPE = environment.env.str("DISTILLATION_RECIPE", default="starter-1step")
DISTILLATION_DETECTOR = environment.env.str("DISTILLATION_DETECTOR", default="")
NSFW_BIT = environment.flag("NSFW_BIT", False)
DISTILLATION_CLIP = environment.env.str("DISTILLATION_CLIP", default="")
DISTILLATION_YIELDS = environment.flag("DISTILLATION_YIELDS", True)
DISTILLATION_FREE_GIB = environment.whole("DISTILLATION_FREE_GIB", 2, most=1_000_000)
SLICE_SECONDS = environment.positive("SLICE_SECONDS", 120)
PROMOTION = environment.choice("PROMOTION", "auto", ("auto", "canary", "manual"))
CANARY_PERCENT = environment.count("CANARY_PERCENT", 10, most=99)
CANARY_JOBS = environment.count("CANARY_JOBS", 200)
IMAGE_SOURCE_ROOTS = environment.env.list("IMAGE_SOURCE_ROOTS", default=[])
IMAGE_SOURCE_BUCKETS = environment.env.list("IMAGE_SOURCE_BUCKETS", default=[])
IMAGE_SOURCE_PRIVATE_HOSTS = environment.flag("IMAGE_SOURCE_PRIVATE_HOSTS", False)
REDISTIL_NEW_VARIANTS = environment.count("REDISTIL_NEW_VARIANTS", 1)
REDISTIL_SETTLED_SECONDS = environment.positive("REDISTIL_SETTLED_SECONDS", 600)
REDISTIL_AGE_DAYS = environment.whole("REDISTIL_AGE_DAYS", 0, most=36_500)
REDISTIL_FAILING_SHARE = environment.share("REDISTIL_FAILING_SHARE", 0)
REDISTIL_WINDOW_DAYS = environment.count("REDISTIL_WINDOW_DAYS", 7, most=36_500)

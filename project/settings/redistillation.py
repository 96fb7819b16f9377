"""Redistillation: recipes, promotion, image sources, and when a run starts."""

from project.settings import environment

DISTILLATION_RECIPE = environment.env.str(
    "DISTILLATION_RECIPE", default="starter-1step"
)  # a name, or a JSON file of changes to one
DISTILLATION_DETECTOR = environment.env.str(
    "DISTILLATION_DETECTOR", default=""
)  # a folder; of the starter's teacher its own without it
NSFW_BIT = environment.env.bool(
    "NSFW_BIT", default=False
)  # whether pictures are judged for nudity too, by the library nudenet
DISTILLATION_CLIP = environment.env.str("DISTILLATION_CLIP", default="")  # likewise
DISTILLATION_YIELDS = environment.env.bool(
    "DISTILLATION_YIELDS", default=True
)  # stand still while jobs wait: for machines where both share a device
SLICE_SECONDS = environment.positive(
    "SLICE_SECONDS", 120
)  # what a killed distillation worker costs at most
PROMOTION = environment.choice(
    "PROMOTION", "auto", ("auto", "canary", "manual")
)  # of a release that passed the gate
CANARY_PERCENT = environment.count("CANARY_PERCENT", 10)  # of the jobs, for a release that is tried
CANARY_JOBS = environment.count(
    "CANARY_JOBS", 200
)  # that it must have served without getting worse
IMAGE_SOURCE_ROOTS = environment.env.list(
    "IMAGE_SOURCE_ROOTS", default=[]
)  # folders below which image sources may lie; empty: DATA_DIR/sources
IMAGE_SOURCE_PRIVATE_HOSTS = environment.env.bool(
    "IMAGE_SOURCE_PRIVATE_HOSTS", default=False
)  # whether image sources may be fetched from addresses of private networks
REDISTIL_NEW_VARIANTS = environment.count(
    "REDISTIL_NEW_VARIANTS", 1
)  # not covered, before a run is begun
REDISTIL_SETTLED_SECONDS = environment.positive(
    "REDISTIL_SETTLED_SECONDS", 600
)  # the catalogue must have rested this long
REDISTIL_AGE_DAYS = int(environment.env.int("REDISTIL_AGE_DAYS", default=0))  # 0: age is no reason
REDISTIL_FAILING_SHARE = environment.share(
    "REDISTIL_FAILING_SHARE", 0
)  # of the judged images, for sure; 0: no reason
REDISTIL_WINDOW_DAYS = environment.count("REDISTIL_WINDOW_DAYS", 7)  # in which they are counted

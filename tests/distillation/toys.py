"""A recipe of every stage at toy size."""

SMALL = (
    "image_size=64", "timesteps=[625]", "student.cut=tiny",
    "pairs.seeds_per_variant=3", "pairs.num_inference_steps=4", "pairs.written=4", "pairs.batch=2",
    "decoder.channels=4", "decoder.blocks=[0,0]", "decoder.steps=2", "decoder.warmup=0", "decoder.batch=2",
    "decoder.pictures=4", "decoder.validated=1",
    "structure.steps=2", "structure.warmup=0", "structure.batch=4",
    "regression.steps=2", "regression.warmup=0", "regression.batch=2", "regression.watched=1",
    "matching.steps=2", "matching.warmup=0", "matching.batch=2", "matching.critic_batch=2",
    "matching.critic_updates=1", "matching.paired=1", "matching.watched=1", "matching.student_after=0",
    "joint.steps=2", "joint.warmup=0", "joint.batch=2", "joint.watched=1",
    "again.steps=2", "again.warmup=0", "again.batch=2", "again.watched=1",
    "quantise.steps=2", "quantise.warmup=0", "quantise.batch=2", "quantise.measured=4",
    "evaluation.seeds_per_variant=2", "evaluation.fresh_seeds=2", "evaluation.speed=null",
)  # fmt: skip

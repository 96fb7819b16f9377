"""The computing stages of a distillation: pairs, and the trainings from a teacher to a quantised student."""

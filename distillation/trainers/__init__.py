"""The stages of a distillation that compute: pairs, and the trainings from a teacher to a quantised student."""

"""Image metrics that do not depend on the prompt: distances of sets and of pairs, sharpness, texture."""

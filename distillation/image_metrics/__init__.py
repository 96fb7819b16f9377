"""Measures of images without a judge of what they show: distances of sets and of pairs, sharpness, texture."""

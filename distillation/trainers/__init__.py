"""Training loops, their checkpoints and their averages; what is trained comes in from outside. Knows no Django."""

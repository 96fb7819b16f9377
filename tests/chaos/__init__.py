"""Faults under load: a whole stack, its servers and devices put into every state, and a checker of the invariants."""

"""The stages from a teacher and a catalogue to a release, and the recipes that set them."""

"""Objectives of the structure stage: one module for each method, with its recipe; docs/distillation.md has a table.

`guidance` is the default of `StructureRecipe`, and all releases were made with it. In the comparisons so far, of 120
and 300 steps, `hinton`, `ensemble`, `mmd` and `bayes` had a higher error; by pictures the methods could not be
distinguished, and no training was continued to a release (docs/experiments.md). `hinton` and `ensemble` were changed
afterwards. `manage.py compare-methods` compares all methods again.
"""

"""Objectives of the structure stage: one module for each method, with its recipe.

`guidance` won: it is the default of `StructureRecipe`, and every release was made by it. `hinton`, `ensemble`, `mmd`
and `bayes` (with `posterior`) lost the comparisons of 2026-11-24 and 2026-11-25 in docs/experiments.md ("The methods of
the structure stage …"). They stay because the project set out to compare them. Only their recipes call them, and they
alone use soft_targets, ensembles, mmd and bayes of `distillation.losses`.
"""

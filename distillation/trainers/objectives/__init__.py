"""Objectives of the structure stage: one module for each method, with its recipe; docs/distillation.md has a table.

`guidance` is the default of `StructureRecipe`, and every release was made by it. The others are the methods that the
project set out to compare: `manage.py compare-methods`.
"""

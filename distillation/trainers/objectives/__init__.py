"""Objectives of the structure stage: one module for each method, with its recipe; docs/distillation.md has a table.

`guidance` is the default of `StructureRecipe`, and all releases were made with it. The others are the methods that
`manage.py compare-methods` compares with it.
"""

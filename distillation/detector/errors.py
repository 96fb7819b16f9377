"""Errors of a detector's files. Imports no torch: the web process catches them."""


class DetectorUnusable(Exception):
    """The folder holds no detector that can be loaded."""


class LabelsUnusable(Exception):
    """The folder of labelled pictures cannot be used; the message names file and line."""

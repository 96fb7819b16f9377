"""What can go wrong with a detector's files. Knows no tensors, so that whoever only lists detectors can catch it."""


class DetectorUnusable(Exception):
    """The folder holds no detector that can be loaded."""


class LabelsUnusable(Exception):
    """The folder of labelled pictures cannot be used; says which file and line."""

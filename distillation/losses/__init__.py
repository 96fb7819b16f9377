"""Loss functions: from tensors to a scalar. They hold no network and no optimiser."""

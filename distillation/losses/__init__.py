"""What a student is trained to make small: functions from tensors to a scalar. Knows no network and no optimiser."""

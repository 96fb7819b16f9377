"""What a structural training makes small: a file per method, each with its recipe. Knows no loop and no optimiser."""

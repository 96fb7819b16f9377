"""Image sources and the examples that are read from them."""

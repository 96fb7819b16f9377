"""The HTTP views by resource. They parse, ask the modules below and render; they decide nothing about jobs."""

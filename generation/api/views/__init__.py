"""Views of the API, by resource. They parse and render; decisions about jobs are made in `generation.jobs`."""

"""HTML pages for people: log in, choose a prompt, generate, follow progress, gallery."""

"""The page for people: log in, choose a prompt variant, generate, watch, look at what was made. HTML, not the API."""

"""Image and model routes compatible with OpenAI's API."""

"""The image routes of OpenAI's API."""

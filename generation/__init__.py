"""Generation of images from prompt variants: catalogue, jobs, workers, REST API, admin."""

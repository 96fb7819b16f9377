"""Redis, notifications, heartbeats, metrics and prepared SQL."""

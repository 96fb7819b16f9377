"""Redis, notifications, heartbeats and metrics."""

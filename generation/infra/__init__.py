"""Redis, PostgreSQL, notifications, heartbeats and metrics."""

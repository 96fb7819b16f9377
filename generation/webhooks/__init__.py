"""Webhooks: endpoints, the outbox, delivery."""

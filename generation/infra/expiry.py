"""Expiry of Celery messages, by the clocks of two hosts: the sender's, which sets the time, and the receiver's."""

from datetime import datetime

from celery.worker.request import Request

from generation.infra.redis_client import attempt


class LastMessageRequest(Request):
    """Request, for `Task.Request`, that never discards the last message of a queue.

    A message expires since the next one replaces it. If the clocks differ by more than its time, all seem expired.
    """

    def maybe_expire(self) -> bool:
        if self.expires is None or datetime.now(self.expires.tzinfo) <= self.expires:
            return False
        queue = self.delivery_info["routing_key"]
        return attempt(lambda redis: redis.llen(queue), 0) > 0 and bool(super().maybe_expire())

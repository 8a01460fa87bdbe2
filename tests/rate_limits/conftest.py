from __future__ import annotations

from tests.rate_limits.clock import clock
from tests.redis_server import redis_server

__all__ = ["clock", "redis_server"]

"""Health check of a worker's container: exits 0 if its worker has reported to Redis that it is ready."""

from __future__ import annotations

import platform
import sys

from redis import Redis

from service.jobs.workers import Workers
from service.settings import read_settings


def main() -> int:
    settings = read_settings()
    redis = Redis.from_url(settings.require_redis_url, socket_timeout=5)
    living = Workers(redis, ttl_seconds=settings.worker_ttl_seconds).all()
    if any(worker.ready for worker in living if worker.host == platform.node()):
        return 0
    print("no worker of this container has reported that it is ready", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

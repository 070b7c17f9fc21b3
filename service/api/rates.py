"""How many requests a key may send in a minute.

A key has a bucket of as many requests as it may send in a minute. The bucket fills again evenly, within a minute. The
state of a bucket is the moment at which it is full again (GCRA, the generic cell rate algorithm).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from redis import Redis

SECONDS = 60

# Takes one request out of the bucket KEYS[1], of ARGV[1] requests that come again in ARGV[2] microseconds. Answers
# whether there was one, the microseconds until there is one again where there was none, and those until all are there.
_TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local after = full_at + ARGV[2] / ARGV[1]
local wait = after - now - ARGV[2]
if wait > 0 then return {0, math.ceil(wait), math.ceil(full_at - now)} end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
return {1, 0, math.ceil(after - now)}
"""


@dataclass(frozen=True)
class Taken:
    """What came of taking a request out of a bucket: how many are left, and the seconds until there is one, and all."""

    granted: bool
    limit: int
    left: int
    wait: int
    full_in: int

    @property
    def headers(self) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers, and Retry-After for what was refused."""
        fields = {
            "RateLimit-Policy": f'"requests";q={self.limit};w={SECONDS}',
            "RateLimit": f'"requests";r={self.left};t={self.full_in}',
        }
        return fields if self.granted else fields | {"Retry-After": str(self.wait)}


class RateLimits:
    """The buckets of all keys, in the Redis that the service's processes share."""

    def __init__(self, redis: Redis) -> None:
        self._take = redis.register_script(_TAKE)

    def take(self, key_id: str, limit: int) -> Taken:
        """Counts a request of a key that may send `limit` in a minute."""
        granted, wait, full_in = self._take(keys=[f"dain:rate:{key_id}"], args=[limit, SECONDS * 1_000_000])
        left = math.floor(limit * (1 - full_in / (SECONDS * 1_000_000)))
        return Taken(bool(granted), limit, left, math.ceil(wait / 1e6), math.ceil(full_in / 1e6))

"""What `async_client` does not write itself: sleeping, and reading and writing files without holding up the loop.

`sync_io` has the same names.
"""

from __future__ import annotations

import asyncio

sleep = asyncio.sleep
in_thread = asyncio.to_thread

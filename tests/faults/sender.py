"""The sender of webhooks, which tries again sooner than in life: `python -m tests.faults.sender`."""

from __future__ import annotations

from typing import Any

from service import webhooks

LOAN_SECONDS = 6.0
HASTE: dict[str, Any] = {"answer_seconds": 3.0, "pauses": (1.0,) * 120}

if __name__ == "__main__":
    setattr(webhooks, "LOAN_SECONDS", LOAN_SECONDS)  # noqa: B010
    setattr(webhooks.Sender.__init__, "__kwdefaults__", HASTE)  # noqa: B010
    webhooks.main()

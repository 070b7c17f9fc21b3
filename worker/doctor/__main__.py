"""`python -m worker.doctor`: the checks that need PyTorch or FFmpeg, a line of JSON for each finding.

`dain doctor` runs them as a process of their own: what they look at may crash, or never come back.
"""

from __future__ import annotations

import json

from service.doctor.findings import examine

MODULES = ("worker.doctor.gpu", "worker.doctor.network", "worker.doctor.media")


def main() -> None:
    for module in MODULES:
        for finding in examine(module):
            print(json.dumps(finding), flush=True)


if __name__ == "__main__":
    main()

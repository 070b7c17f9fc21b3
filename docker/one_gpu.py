"""`one_gpu.py COMMAND …` becomes COMMAND, with one GPU of this machine that no other worker has.

Compose gives every replica of a service the same GPUs. Each replica therefore locks the first free GPU, in a folder
that all workers of the machine share. It holds the lock as long as its process lives, however that ends. Where all
GPUs are taken it waits, ready to take over.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ.get("DAIN_GPU_LOCKS", "/run/dain/gpus"))


def gpus() -> list[str]:
    """The UUIDs of the GPUs that this container sees."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(
            f"No NVIDIA GPU can be used in this container ({error}). Install the NVIDIA Container Toolkit on the "
            "host, or run workers on the CPU: docker compose --profile cpu up"
        )
    return asked.stdout.split()


def take(gpu: str) -> bool:
    """Lock `gpu`; False if another worker has it. This process keeps the lock across exec; its children do not."""
    lock = os.open(FOLDER / gpu, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    os.set_inheritable(lock, True)
    return True


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    every = gpus()
    waiting = False
    while True:
        for gpu in every:
            if take(gpu):
                os.environ["CUDA_VISIBLE_DEVICES"] = gpu
                os.execvp(sys.argv[1], sys.argv[1:])
        if not waiting:
            print(f"Each of the {len(every)} GPUs has its worker; waiting for one to be free.", flush=True)
            waiting = True
        time.sleep(1)


if __name__ == "__main__":
    main()

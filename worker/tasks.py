"""The names by which the queue knows the tasks. Entries outlive an update, so the names stay when the code moves."""

from worker.work import run

plan = segment = assemble = run

__all__ = ["assemble", "plan", "segment"]

"""Who does the work."""

from __future__ import annotations

from fastapi import APIRouter

from service.deps import ServiceDep
from service.errors import documented
from service.workers import WorkerRecord

router = APIRouter(tags=["workers"])


@router.get("/workers", responses=documented("redis-unavailable"))
def list_workers(service: ServiceDep) -> list[WorkerRecord]:
    """Every living worker: its device, memory, model, speed and the job in hand."""
    return service.workers.all()

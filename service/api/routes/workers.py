"""The workers."""

from __future__ import annotations

from fastapi import APIRouter

from service.api.auth import AdminDep
from service.api.deps import ServiceDep
from service.api.problems import documented
from service.jobs.workers import WorkerRecord

router = APIRouter(tags=["workers"])


@router.get("/workers", responses=documented("redis-unavailable"))
def list_workers(service: ServiceDep, caller: AdminDep) -> list[WorkerRecord]:
    """Lists every living worker: its device, memory, model, speed and the job in hand."""
    return service.workers.all()

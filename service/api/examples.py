"""Examples of what the API answers, for its description: one of each document."""

from __future__ import annotations

from typing import Any

JOB: dict[str, Any] = {
    "id": "019ad57e1c80a3d74c1f2b9e6a05",
    "status": "running",
    "created_at": 1764550000.0,
    "started_at": 1764550001.25,
    "filename": "clip.mp4",
    "options": {"target_fps": "60", "model": "auto", "scene_threshold": 0.3, "quality": 18, "audio": "copy"},
    "reference": "order 7",
    "metadata": {"user": "42"},
    "input": {"width": 1920, "height": 1080, "frames": 240, "frame_rate": "24"},
    "progress": {
        "frames_done": 150,
        "frames_total": 600,
        "fraction": 0.25,
        "fps": 24.0,
        "eta_seconds": 18.75,
    },
    "metrics": {"segments_done": 1, "segments_total": 7},
    "links": {"self": "/jobs/019ad57e1c80a3d74c1f2b9e6a05"},
}
#: By the name of the schema.
EXAMPLES: dict[str, dict[str, Any]] = {
    "JobView": JOB,
    "Page": {"jobs": [JOB], "next_cursor": None},
    "Estimate": {
        "input": {"width": 1920, "height": 1080, "frames": 240, "frame_rate": "24"},
        "frames": 600,
        "new_frames": 480,
        "work": 995.3,
        "seconds": 24.9,
        "eta_seconds": 61.2,
        "queue_position": 1,
        "notes": [{"code": "pixels-padded", "text": "The pictures have an even size in the result."}],
        "picture": None,
    },
    "UploadLink": {
        "id": "019ad57e1c80a3d74c1f2b9e6a05",
        "url": "https://bucket.s3.example.com/incoming/019ad57e1c80a3d74c1f2b9e6a05?X-Amz-Signature=…",
        "headers": {"Content-Length": "104857600"},
        "expires_at": 1764553600.0,
    },
    "DeliveryLog": {
        "attempts": [
            {
                "message": "msg_019a7c2e5b3f41d2c8e6f0a1b2c3_1764550000000-0",
                "type": "job.succeeded",
                "attempt": 2,
                "outcome": "failed",
                "status": 500,
                "error": "The webhook answered 500.",
                "time": 1764550033.2,
                "next_attempt_at": 1764550153.9,
            }
        ]
    },
    "Frames": {"frames": "snnsnnsnnshh", "start": 0.0, "rate": 60.0, "times": None},
    "WorkerRecord": {
        "name": "gpu-1-3f9a12bc",
        "host": "gpu-1",
        "pid": 41,
        "version": "0.2.0",
        "device": "cuda:0",
        "device_name": "NVIDIA H200",
        "backend": "cuda",
        "model": "dain-refined",
        "models": ["dain", "dain-lite", "dain-refined"],
        "precision": "fp16",
        "ready": True,
        "vram_used_bytes": 9663676416,
        "vram_total_bytes": 150754820096,
        "frames_per_second": 84.2,
        "frames_total": 120400,
        "job": "019ad57e1c80a3d74c1f2b9e6a05",
        "task": "segment-3",
        "started_at": 1764540000.0,
        "heartbeat_at": 1764550001.2,
    },
}
#: By the path of the call, where its document has no schema of its own.
ANSWERS: dict[str, dict[str, Any]] = {
    "/healthz": {"status": "ok", "version": "0.2.0", "instance": "5f0c1a9e7b3d4c2f8a6e1d0b9c8f7a6e"},
    "/readyz": {
        "status": "ready",
        "checks": {"redis": "ok", "store": "ok", "keys": "ok", "workers": "ok"},
    },
}

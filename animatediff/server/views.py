"""Jobs as clients see them: OpenAI's video object, with `details` of ours."""

from __future__ import annotations

from typing import Any

from animatediff.server.queue import COMPLETED, QUEUED, Job


def video(job: Job, position: int | None = None) -> dict[str, Any]:
    """The video object. position: jobs that wait before it."""
    asked, state, result = job.asked, job.state, job.result or {}
    seconds, size = asked.get("seconds"), asked.get("size")
    if result:
        seconds, size = result["seconds"], f"{result['width']}x{result['height']}"
    error = None if job.error is None else {key: job.error[key] for key in ("code", "message")}
    return {
        "id": job.id,
        "object": "video",
        "model": asked["model"],
        "status": job.status,
        "progress": 100 if job.status == COMPLETED else state.get("percent", 0),
        "created_at": int(job.created_at),
        "completed_at": None if job.completed_at is None else int(job.completed_at),
        "expires_at": None if job.expires_at is None else int(job.expires_at),
        "prompt": asked["prompt"],
        "seconds": seconds,
        "size": size,
        "error": error,
        "remixed_from_video_id": None,
        "details": {
            "queue_position": position if job.status == QUEUED else None,
            "tries": job.tries,
            "user": asked.get("user"),
            "output_format": asked.get("output_format"),
            **{name: state.get(name) for name in ("phase", "step", "total", "time_left", "memory")},
            "notes": state.get("notes", []),
            **{name: result.get(name) for name in ("seed", "num_frames", "fps", "seam")},
        },
    }

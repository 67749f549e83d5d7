"""Numbers of a service for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from animatediff.server.queue import Job

SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """Counters and gauges of one service."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "animatediff_http_requests", "Replies.", ("method", "route", "status"), registry=self._registry
        )
        self.accepted = Counter("animatediff_jobs_accepted", "Jobs taken into the queue.", registry=self._registry)
        self.turned_away = Counter("animatediff_jobs_refused", "Jobs refused.", ("reason",), registry=self._registry)
        self.ended = Counter(
            "animatediff_jobs", "Jobs that ended: completed, deleted, or the code of the error.", ("outcome",),
            registry=self._registry,
        )  # fmt: skip
        self.worker_deaths = Counter(
            "animatediff_worker_deaths", "Workers that ended without being told.", registry=self._registry
        )
        self._jobs = Gauge("animatediff_jobs_now", "Jobs in the table.", ("status",), registry=self._registry)
        self._workers = Gauge("animatediff_workers", "Workers that run.", registry=self._registry)
        self._took = Histogram(
            "animatediff_job_seconds", "Seconds at work.", ("outcome",), buckets=SECONDS, registry=self._registry
        )
        self._waited = Histogram(
            "animatediff_wait_seconds", "Seconds in the queue.", buckets=SECONDS, registry=self._registry
        )

    def tell(self, job: Job) -> None:
        """Count a job that has ended."""
        outcome = "completed" if job.error is None else job.error["code"]
        self.ended.labels(outcome).inc()
        if job.started_at is not None and job.completed_at is not None:
            self._took.labels(outcome).observe(max(0.0, job.completed_at - job.started_at))
            self._waited.observe(max(0.0, job.started_at - job.created_at))

    def text(self, counts: Mapping[str, int], workers: int) -> bytes:
        """The numbers as Prometheus reads them."""
        for status, count in counts.items():
            self._jobs.labels(status).set(count)
        self._workers.set(workers)
        return generate_latest(self._registry)

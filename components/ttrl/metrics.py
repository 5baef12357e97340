"""The service's Prometheus metrics, in a registry of their own (two services in one process do not collide)."""

from __future__ import annotations

import math

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # a second series for each one, which says when counting began

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """What is counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("pixelis_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.latency = Histogram(
            "pixelis_latency_seconds", "Time by part of a request.", ["part"], buckets=SECONDS, registry=registry
        )
        self.confidence = Histogram("pixelis_confidence", "Confidence of answers.", buckets=SHARES, registry=registry)
        self.abstentions = Counter("pixelis_abstentions", "Rollouts without a usable answer.", registry=registry)
        self.rollouts = Counter("pixelis_rollouts", "Rollouts sampled to answer requests.", registry=registry)
        self.unparsed = Counter(
            "pixelis_unparsed_answers", "Requests no rollout of which gave an answer.", registry=registry
        )
        self.labels = Counter(
            "pixelis_pseudo_labels", "Experiences by what the gate said.", ["outcome"], registry=registry
        )
        self.model_only = Counter(
            "pixelis_model_only", "Answers given without the buffer.", ["reason"], registry=registry
        )
        self.updates = Counter("pixelis_updates", "Adapter updates by outcome.", ["status"], registry=registry)
        self.dropped_tasks = Counter(
            "pixelis_update_tasks_dropped", "Update tasks the full queue refused.", registry=registry
        )
        for status in ("accepted", "rejected", "withheld", "unchanged", "failed", "rolled_back"):
            self.updates.labels(status)  # from 0 on, or an alert on the increase would miss the first one
        self.canary = Gauge("pixelis_canary_accuracy", "Canary accuracy of the adapter that serves.", registry=registry)
        self.canary.set(math.nan)  # not measured yet
        self.ready = Gauge("pixelis_ready", "1 while a model answers.", registry=registry)
        self.learning = Gauge("pixelis_learning", "1 while updates are allowed.", registry=registry)
        self.buffer_experiences = Gauge("pixelis_buffer_experiences", "Experiences stored.", registry=registry)
        self.in_flight = Gauge("pixelis_requests_in_flight", "Requests being worked on.", registry=registry)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

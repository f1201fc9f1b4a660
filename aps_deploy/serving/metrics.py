"""The page that Prometheus reads: Triton's ``nv_inference_*`` names, so that its dashboards fit, and a few of ours.

Triton's counters lack the suffix ``_total`` that client libraries add, hence the text is written here
(prometheus.io/docs/instrumenting/exposition_formats).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from aps_deploy.serving.canary_record import CanaryRecord
from aps_deploy.serving.model import ServedModel
from aps_deploy.serving.statistics import ModelStatistics

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_COUNTERS: tuple[tuple[str, str, Callable[[ModelStatistics], int]], ...] = (
    ("nv_inference_request_success", "Number of answered requests", lambda s: s.success.count),
    ("nv_inference_count", "Number of images answered", lambda s: s.inference_count),
    ("nv_inference_exec_count", "Number of model executions", lambda s: s.execution_count),
    ("nv_inference_request_duration_us", "Cumulative duration of requests", lambda s: s.success.ns // 1000),
    ("nv_inference_queue_duration_us", "Cumulative time in the queue", lambda s: s.queue.ns // 1000),
    *(
        (
            f"nv_inference_{part}_duration_us",
            f"Cumulative {part.replace('_', ' ')} duration of requests",
            lambda s, part=part: s.parts[part].ns // 1000,
        )
        for part in ("compute_input", "compute_infer", "compute_output")
    ),
)

_CANARY: tuple[tuple[str, str, str, Callable[[CanaryRecord], float | None]], ...] = (
    (
        "aps_shift_consistency",
        "Share of the last canary's shifts that kept the class",
        "gauge",
        lambda record: record.consistency,
    ),
    (
        "aps_shift_bit_identity",
        "Share of the last canary's shifts that kept every bit of the logits",
        "gauge",
        lambda record: record.bit_identity,
    ),
    (
        "aps_canary_last_run_timestamp_seconds",
        "When the last canary ended, in seconds since 1970",
        "gauge",
        lambda record: record.last_run_s,
    ),
    (
        "aps_canary_held",
        "Whether the model promises that shifts change nothing; if not, nothing is a failure",
        "gauge",
        lambda record: int(record.promise != "nothing"),
    ),
    ("aps_canary_runs_total", "Number of canaries with an outcome", "counter", lambda record: record.num_runs),
    ("aps_canary_failures_total", "Number of canaries that failed", "counter", lambda record: record.num_failures),
    (
        "aps_canary_skipped_total",
        "Number of canaries given up because the queue was full",
        "counter",
        lambda record: record.num_skipped,
    ),
)


def metrics_page(models: Iterable[ServedModel], *, is_ready: bool) -> str:
    """Return the page for the models that are served now."""
    return "\n".join(_lines(list(models), is_ready)) + "\n"


def _lines(models: list[ServedModel], is_ready: bool) -> Iterator[str]:
    for name, meaning, value in _COUNTERS:
        yield from _head(name, meaning, "counter")
        for model in models:
            yield f"{name}{_labels(model)} {value(model.statistics)}"
    yield from _head("nv_inference_request_failure", "Number of requests without an answer", "counter")
    for model in models:
        for reason, count in model.statistics.failures.items():
            yield f"nv_inference_request_failure{_labels(model, reason=reason)} {count}"
    yield from _head("nv_inference_pending_request_count", "Number of requests that wait or run", "gauge")
    for model in models:
        yield f"nv_inference_pending_request_count{_labels(model)} {model.batcher.num_pending}"
    yield from _head("aps_requests_joined", "Whether requests may share a run", "gauge")
    for model in models:
        yield f"aps_requests_joined{_labels(model)} {int(model.batcher.policy.joins)}"
    for name, meaning, kind, canary_value in _CANARY:
        found = [(model, canary_value(model.canary)) for model in models if model.canary is not None]
        if found:
            yield from _head(name, meaning, kind)
        for model, number in found:
            if number is not None:  # before the first run there is none
                yield f"{name}{_labels(model)} {number}"
    yield from _head("aps_server_ready", "Whether the server says that it is ready", "gauge")
    yield f"aps_server_ready {int(is_ready)}"


def _head(name: str, meaning: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"


def _labels(model: ServedModel, **more: str) -> str:
    labels = {"model": model.name, "version": model.version, **more}
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

"""One session interface over every runtime; importing this imports no runtime."""

from aps_deploy.runtimes.availability import RuntimeStatus, available_runtimes, resolve_runtime
from aps_deploy.runtimes.batching import iterate_outputs, predict_logits, run_batched
from aps_deploy.runtimes.inputs import InputSpec
from aps_deploy.runtimes.metadata import METADATA_KEY, ModelMetadata, SelectionTensors
from aps_deploy.runtimes.opening import file_kind, open_session
from aps_deploy.runtimes.session import Session
from aps_deploy.runtimes.sidecar import check_sidecar, read_sidecar, sidecar_path

__all__ = [
    "METADATA_KEY",
    "InputSpec",
    "ModelMetadata",
    "RuntimeStatus",
    "SelectionTensors",
    "Session",
    "available_runtimes",
    "check_sidecar",
    "file_kind",
    "iterate_outputs",
    "open_session",
    "predict_logits",
    "read_sidecar",
    "resolve_runtime",
    "run_batched",
    "sidecar_path",
]

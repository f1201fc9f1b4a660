"""Architectures, their registry, checkpoints, and other people's weights."""

from aps_deploy.models.checkpoints import (
    CheckpointInfo,
    TrainedModel,
    load_checkpoint,
    locate_checkpoint,
    save_checkpoint,
)
from aps_deploy.models.importing import ImportResult, import_weights
from aps_deploy.models.layouts import Layout, detect_layout
from aps_deploy.models.network import SelectingNetwork
from aps_deploy.models.registry import (
    ModelSummary,
    create_model,
    list_models,
    network_spec,
    resolve_arch,
    spec,
    summarise,
)
from aps_deploy.models.resnet import ResNet, SelectionTrace
from aps_deploy.models.spec import ModelSpec
from aps_deploy.models.weights import ImportReport, load_weights
from aps_deploy.packaged import packaged_models

__all__ = [
    "CheckpointInfo",
    "ImportReport",
    "ImportResult",
    "Layout",
    "ModelSpec",
    "ModelSummary",
    "ResNet",
    "SelectingNetwork",
    "SelectionTrace",
    "TrainedModel",
    "create_model",
    "detect_layout",
    "import_weights",
    "list_models",
    "load_checkpoint",
    "load_weights",
    "locate_checkpoint",
    "network_spec",
    "packaged_models",
    "resolve_arch",
    "save_checkpoint",
    "spec",
    "summarise",
]

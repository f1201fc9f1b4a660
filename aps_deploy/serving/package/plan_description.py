"""A plan of TensorRT as its document describes it: enough to configure the server that will run it, on its GPU.

Nothing is loaded, so a plan is packaged on any machine; `aps_deploy.serving.plan_engine` loads one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.runtimes.sidecar import read_sidecar, sidecar_path
from aps_deploy.runtimes.tensorrt.plan_file import read_plan_file
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS
from aps_deploy.serving.datatypes import datatype_of_numpy
from aps_deploy.serving.engine import Platform, TensorSpec


class PlanDescription:
    """A plan with its document, not loaded; see `aps_deploy.serving.engine.FileDescription`.

    Args:
        path: the plan, with the document that export wrote beside it.

    Attributes:
        num_profiles: optimisation profiles.
        max_batch: most images in one run.
        best_batches: the batches that its profiles are fastest at.
        notes: what the user should know of it.

    Raises:
        InputError: plan or document is missing or damaged, Triton's TensorRT backend does not run such a plan, or its
            profiles take no single image.
    """

    platform: Platform = "tensorrt_plan"
    is_on_gpu = True

    def __init__(self, path: Path) -> None:
        plan = read_plan_file(path)
        self.source = str(path)
        if plan.header.kind != "trt":
            raise InputError(
                f"{path} is an engine of {TOOLKITS[plan.header.kind].title}, which Triton does not run; package the "
                "ONNX file, or a plan made with `aps-deploy export --engine trt`."
            )
        if not plan.has_weights:
            raise InputError(
                f"{path} was exported with --strip-weights, and Triton puts no weights into a plan; export it without."
            )
        profiles = plan.engine.get("profiles") or []
        tensors = (read_sidecar(path) or {}).get("tensors")
        if not profiles or not isinstance(tensors, dict):
            raise InputError(
                f"{sidecar_path(path)} names no profiles or no tensors of {path.name}; export the engine again."
            )
        smallest, self.max_batch = (
            limit(profile[key][0] for profile in profiles) for limit, key in ((min, "min"), (max, "max"))
        )
        if smallest not in (1, self.max_batch):
            raise InputError(
                f"the profiles of {path} take {smallest} to {self.max_batch} images; export it again with profiles "
                "that take one image, or always as many."
            )
        sizes = [shape[2:] for profile in profiles for shape in profile.values()]
        size = sizes[0] if all(each == sizes[0] for each in sizes) else [-1, -1]
        batch = -1 if smallest < self.max_batch else smallest
        self.inputs: tuple[TensorSpec, ...] = tuple(_spec(entry, batch, size) for entry in tensors["inputs"])
        self.outputs: tuple[TensorSpec, ...] = tuple(_spec(entry, batch, None) for entry in tensors["outputs"])
        self.metadata = plan.metadata
        self.num_profiles = len(profiles)
        self.best_batches = sorted({profile["opt"][0] for profile in profiles})
        self.notes = (f"{path} is of TensorRT {plan.header.version}, so take a --triton-image that has this version",)


def _spec(entry: Mapping[str, Any], batch: int, size: list[int] | None) -> TensorSpec:
    """Return an input or output; ``size`` is the height and width that the profiles take, for an input of images."""
    shape = [batch, *entry["shape"][1:]]
    if size is not None and len(shape) == 4:
        shape[2:] = size
    datatype = datatype_of_numpy(entry["type"])
    if datatype is None:
        raise InputError(f"the tensor {entry['name']!r} is a {entry['type']}, which the protocol does not know.")
    return TensorSpec(entry["name"], datatype, tuple(shape))

"""What tests marked `gpu` need of a machine; where something is missing they are skipped, and say what."""

from __future__ import annotations

import pytest
import torch

from aps_deploy.errors import ApsError
from aps_deploy.runtimes.availability import num_cuda_devices
from aps_deploy.runtimes.tensorrt import toolkit as toolkits

needs_cuda = pytest.mark.skipif(num_cuda_devices() == 0, reason="the driver reports no CUDA device")
# Also for engines, whose sessions keep their memory and streams in PyTorch.
needs_torch_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")


def toolkit_here(kind: toolkits.EngineKind) -> toolkits.Toolkit:
    """Return a toolkit whose engines run on this GPU; skip where it is missing, or refuses the GPU."""
    try:
        toolkit = toolkits.load_toolkit(kind)
    except ApsError as error:
        pytest.skip(str(error))
    skip_unless_engines_run(toolkit)
    return toolkit


def skip_unless_engines_run(toolkit: toolkits.Toolkit) -> None:
    """Skip where this GPU is not among those that the toolkit names: TensorRT for RTX names no 9.0."""
    known = toolkit.compute_capabilities
    if known and (toolkit.gpu is None or toolkit.gpu.compute_capability not in known):
        pytest.skip(f"{toolkit.info.title} runs on {', '.join(known)}, and the GPU is {toolkit.gpu}")

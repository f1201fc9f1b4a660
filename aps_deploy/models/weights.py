"""Reading weight files safely, and loading them into a network whatever their key layout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from aps_deploy.errors import InputError
from aps_deploy.models.layouts import Layout, Weights, canonical_weights, state_dict_of

_rebuild_numpy_scalar: Any = np.float64(0).__reduce__()[0]
# Training scripts store metrics as NumPy scalars; these rebuild numbers and nothing else.
_NUMPY_SCALARS: list[Any] = [
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    # The function that rebuilds a scalar, by its names before and since NumPy 2.
    (_rebuild_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_rebuild_numpy_scalar, "numpy._core.multiarray.scalar"),
]


@dataclass(frozen=True)
class ImportReport:
    """What :func:`load_weights` did.

    Attributes:
        layout: whose keys the weights had.
        num_tensors: tensors loaded.
        filter_size: of the blur buffers found, or None where the layout stores none.
    """

    layout: Layout
    num_tensors: int
    filter_size: int | None


def read_tensors(path: str | os.PathLike[str]) -> Any:
    """Return what a weight file holds, on the CPU: a dict of tensors (safetensors) or a whole training file.

    Only data is read: a pickle that would run code is refused.

    Raises:
        InputError: the file is missing, corrupt, not a checkpoint, or contains pickled code.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"checkpoint {file} does not exist or is not a file.")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"{file} is not a readable safetensors file ({error}).") from error
    return read_pickle(file)


def read_pickle(file: Path) -> Any:
    """Return the data in a file of ``torch.save``, on the CPU, running no code.

    Raises:
        InputError: the file is corrupt, not PyTorch's, or contains pickled code.
    """
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler follows whatever bytes it meets, so that a damaged file raises anything: IndexError,
        # AssertionError, struct.error and more were seen.
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise InputError(
                f"{file} contains pickled code, which is never run; save it again as a plain state dict with "
                "torch.save(model.state_dict(), ...)."
            ) from error
        raise InputError(
            f"{file} is not a PyTorch checkpoint, or is corrupt; give a .safetensors file or one that torch.save wrote."
        ) from error


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Return the weights in ``path`` under our parameter names.

    Raises:
        InputError: as :func:`read_tensors`, or the file holds no state dict.
    """
    return canonical_weights(state_dict_of(read_tensors(path), str(path)))


def load_weights(model: nn.Module, path_or_state_dict: str | os.PathLike[str] | Mapping[str, Tensor]) -> ImportReport:
    """Load weights of aps-deploy, the APS authors, torchvision or antialiased-cnns into ``model``.

    Keys that are the network's own are not translated: timm's deep stems have names that another layout gives a
    circular convolution.

    Raises:
        InputError: the file cannot be read, or its tensors do not fit the network; nothing is loaded then.
    """
    if isinstance(path_or_state_dict, Mapping):
        state = state_dict_of(path_or_state_dict)
    else:
        state = state_dict_of(read_tensors(path_or_state_dict), str(path_or_state_dict))
    has_own_keys = state.keys() | _counters(model).keys() == model.state_dict().keys()
    own = Weights(state, "aps-deploy or torchvision", blur_shapes={}, circular=None, keys=tuple(state))
    return load_canonical(model, own if has_own_keys else canonical_weights(state))


def load_canonical(model: nn.Module, weights: Weights) -> ImportReport:
    """Load weights that are under our names already; see `load_weights`."""
    sizes = {shape[-1] for shape in weights.blur_shapes.values()}
    tensors = _counters(model) | weights.tensors
    _check_fit(model, tensors, sizes)
    model.load_state_dict(tensors)
    return ImportReport(weights.layout, len(weights.tensors), sizes.pop() if sizes else None)


def _counters(model: nn.Module) -> dict[str, Tensor]:
    # Files from before PyTorch 0.4.1 have no counters of batches, which nothing but an average over all of them reads.
    return {key: value for key, value in model.state_dict().items() if key.endswith(".num_batches_tracked")}


def _check_fit(model: nn.Module, tensors: Mapping[str, Tensor], filter_sizes: set[int]) -> None:
    name = getattr(getattr(model, "spec", None), "name", type(model).__name__)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    seen = {key: tuple(value.shape) for key, value in tensors.items()}
    problems = [f"{key} is missing" for key in expected if key not in seen]
    problems += [f"{key} is not a parameter of it" for key in seen if key not in expected]
    problems += [
        f"{key} is {seen[key]}, not {expected[key]}" for key in expected if key in seen and seen[key] != expected[key]
    ]
    wanted = getattr(getattr(model, "spec", None), "filter_size", None)
    if filter_sizes and wanted is not None and filter_sizes != {wanted}:
        problems.append(f"its blur filters have size {sorted(filter_sizes)}, not {wanted}")
    if problems:
        more = f" and {len(problems) - 3} more differences" if len(problems) > 3 else ""
        raise InputError(f"these weights do not fit {name}: {'; '.join(problems[:3])}{more}.")

"""The operators' kernels: the functions of `plugins.triton` compiled to PTX for one kind of GPU."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.plugins.tensorrt.interfaces import (
    BLOCK_PIXELS,
    BLOCK_VALUES,
    PARTS,
    ElementType,
    element_type,
    is_channels_last,
    num_channels,
)
from aps_deploy.plugins.tensorrt.operators import PluginOperator
from aps_deploy.plugins.tensorrt.ptx import check_entry, entry_point, renamed


@dataclass(frozen=True)
class Target:
    """What kernels are compiled for.

    Attributes:
        compute_capability: 90 for 9.0.
        ptx_version: 90 for 9.0, the newest that the driver reads; None takes the newest that Triton writes.
    """

    compute_capability: int
    ptx_version: int | None = None


@dataclass(frozen=True)
class KernelVariant:
    """What a kernel is compiled for, but for the GPU.

    Attributes:
        operator: whose kernel.
        kind: type of the map's values; of ``score``, which sees no map, ``fp32``.
        lanes: of ``energy``, how many channels are loaded at a time, as a power of two; it sets the order in which
            squares are added, and is the one that PyTorch's operators use for as many channels. Else 0.
        is_channels_last: whether the map's channels lie side by side in memory.
    """

    operator: PluginOperator
    kind: ElementType = "fp32"
    lanes: int = 0
    is_channels_last: bool = False

    @property
    def name(self) -> str:
        """The kernel's name, under which profilers show it; no two variants share one."""
        words = ["aps", self.operator.op_type, self.kind]
        words += [f"{1 << self.lanes}_lanes"] if self.operator.kind == "energy" else []
        return "_".join([*words, *(["channels_last"] if self.is_channels_last else [])])


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel as TensorRT takes it.

    Attributes:
        name: of the entry point in the text.
        ptx: the text.
        num_threads: threads of a block.
        shared_bytes: dynamic shared memory of a block.
        architecture: what the text is for, such as ``sm_90a``.
    """

    name: str
    ptx: str
    num_threads: int
    shared_bytes: int
    architecture: str


def compiled_kernel(operator: PluginOperator, tensor: Any, target: Target) -> CompiledKernel:
    """Return an operator's kernel for its first input, which TensorRT describes."""
    return compiled_variant(variant_for(operator, tensor), target)


def variant_for(operator: PluginOperator, tensor: Any) -> KernelVariant:
    """Return the variant of an operator's kernel that fits its first input.

    Raises:
        ApsError: the type, the layout or the number of channels is none that there are kernels for.
    """
    if operator.kind == "score":
        return KernelVariant(operator)
    lanes = 0
    if operator.kind == "energy":
        from aps_deploy.plugins.triton.tiles import energy_tile

        # The block of pixels is ours, the same for every map; the number of lanes follows from the channels alone.
        lanes = energy_tile(num_channels(tensor), BLOCK_PIXELS).log_lanes
    return KernelVariant(operator, element_type(tensor), lanes, is_channels_last(tensor))


@functools.cache
def compiled_variant(variant: KernelVariant, target: Target) -> CompiledKernel:
    """Return a kernel compiled for a GPU.

    Raises:
        ApsError: its parameters are not those that TensorRT hands over.
    """
    from aps_deploy.plugins.triton.ahead_of_time import compile_kernel

    function, constants = source_of(variant)
    made = compile_kernel(function, variant.kind, constants, target.compute_capability)
    newest = target.ptx_version
    if newest is not None and entry_point(made.ptx).version > newest:
        # Asked for only where it is older than what Triton writes: its assembler reads nothing newer.
        made = compile_kernel(function, variant.kind, constants, target.compute_capability, newest)
    ptx, num_threads = renamed(made.ptx, variant.name), 32 * made.num_warps
    parameters = parameters_of(variant.operator)
    entry = check_entry(ptx, name=variant.name, parameters=parameters, num_threads=num_threads)
    return CompiledKernel(entry.name, ptx, num_threads, made.shared_bytes, entry.target)


def parameters_of(operator: PluginOperator) -> tuple[str, ...]:
    """Return the types of what TensorRT hands an operator's kernel: addresses, integers, addresses."""
    num_integers = {"energy": 2, "score": 2, "select": 3}[operator.kind]
    return ("u64",) * operator.num_inputs + ("u32",) * num_integers + ("u64",) * operator.num_outputs


def triton_version() -> str:
    """Return the version of Triton.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise InputError(
            "the file's selections are operators of plugins, whose kernels Triton compiles, and its package triton is "
            "not installed; pip install 'aps-deploy[triton]', or export with --polyphase where."
        )
    return importlib.metadata.version("triton")


def source_of(variant: KernelVariant) -> tuple[Any, dict[str, Any]]:
    """Return a kernel's function and its constants."""
    from aps_deploy.plugins.triton import tiles
    from aps_deploy.plugins.triton.kernels import energies, scores, taking

    operator = variant.operator
    if operator.kind == "energy":
        tile = tiles.EnergyTile(BLOCK_PIXELS, variant.lanes)
        norm = f"l{operator.power}"
        return energies.energy, {"NORM": norm, "CHANNELS_LAST": variant.is_channels_last, **tile.constants()}
    # Scores are added and compared alike for both norms that have plugins.
    shared = {"NORM": "l2", "STRIDE": operator.stride}
    if operator.kind == "score":
        return scores.score, {**shared, "ENERGY_PIXELS": BLOCK_PIXELS, **tiles.score_constants(operator.stride)}
    return taking.select, {
        **shared,
        "KEEPS_SMALLEST": operator.smallest,
        "PARTS": PARTS,
        "CHANNELS_LAST": variant.is_channels_last,
        "BLOCK": BLOCK_VALUES,
    }

"""In which precision does a finished engine compute each layer? Read off its kernels and held against the ONNX file.

The compiler decides which kernel computes a layer, and which types it reads. For each layer that multiplies, the
kernels that name its ONNX node are looked up: the one made for the product (not the generated ones around it, which
convert and pad) reads the image's values first and the weights as its first constant, and both have the layer's
precision. A layer that no kernel names can only be computed by a kernel that names nothing (TensorRT-RTX fuses some
1x1 convolutions so): where all of those have one precision, it is the layer's. Whether a float32 product was allowed
TF32 is in no type, and so in none of this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aps_deploy.errors import ApsError
from aps_deploy.export.engines.kernels import Kernel
from aps_deploy.verification.layer_precision import (
    LayerPrecision,
    count_precisions,
    file_precision,
    layer_precisions,
)

if TYPE_CHECKING:
    import onnx

UNREAD = "unread"

# Kernels that the compiler writes itself, around a product; they are asked only where nothing else names the layer.
_GENERATED = frozenset({"kgen", "Reformat", "Shuffle", "PointWise", "PointWiseV2", "Constant", "Myelin"})


@dataclasses.dataclass(frozen=True)
class ReadPrecisions:
    """What was read back.

    Attributes:
        asked: every layer of the ONNX file with the precision it has there.
        layers: the same layers with the precision their kernels have, ``unread`` where no kernel could be found.
        source: what the kernels were read from, for people.
    """

    asked: tuple[LayerPrecision, ...]
    layers: tuple[LayerPrecision, ...]
    source: str

    @property
    def precision(self) -> str:
        """The precision of the engine as a whole: ``mixed`` where layers differ, ``unread`` where none was read."""
        read = [layer for layer in self.layers if layer.precision != UNREAD]
        return file_precision(read) if read else UNREAD

    @property
    def unread(self) -> tuple[str, ...]:
        """Names of the layers without a kernel that could be read."""
        return tuple(layer.layer for layer in self.layers if layer.precision == UNREAD)

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in an engine's document."""
        return {
            "precision": self.precision,
            "layers": count_precisions(self.layers),
            "by_layer": {layer.layer: layer.precision for layer in self.layers},
            "classifier": next((layer.layer for layer in self.layers if layer.is_classifier), None),
            "unread_layers": list(self.unread),
            "read_from": self.source,
        }

    def warnings(self) -> tuple[str, ...]:
        """Return what the user should know, in sentences; empty where everything was read."""
        if not self.unread:
            return ()
        return (
            f"the precision of {len(self.unread)} of {len(self.layers)} layers could not be read back from the engine "
            f"({self.source}): {', '.join(self.unread[:3])}{'...' if len(self.unread) > 3 else ''}.",
        )


def read_precisions(proto: onnx.ModelProto, kernels: Sequence[Kernel], source: str) -> ReadPrecisions:
    """Return the precision of every layer of an ONNX model, without functions, as its compiled kernels have it."""
    asked = layer_precisions(proto)
    found = []
    for layer in asked:
        precision, evidence = _precision(kernels, layer.layer)
        found.append(dataclasses.replace(layer, precision=precision, evidence=evidence))
    return ReadPrecisions(asked, tuple(found), source)


def check_precisions(read: ReadPrecisions) -> None:
    """Do nothing where every layer that was read computes as the ONNX file asks.

    Raises:
        ApsError: a layer was compiled in another precision.
    """
    pairs = zip(read.asked, read.layers, strict=True)
    others = [(wanted, found) for wanted, found in pairs if found.precision not in (wanted.precision, UNREAD)]
    if not others:
        return
    shown = "; ".join(
        f"{found.layer} was asked for in {wanted.precision} and computes in {found.precision} ({found.evidence})"
        for wanted, found in others[:3]
    )
    more = f"; and {len(others) - 3} more" if len(others) > 3 else ""
    raise ApsError(
        f"the engine is not what was asked for: {shown}{more}; nothing was written: choose another precision, or "
        "another version of the toolkit."
    )


def _precision(kernels: Sequence[Kernel], node: str) -> tuple[str, str]:
    naming = [kernel for kernel in kernels if node in kernel.nodes and kernel.inputs]
    products = [kernel for kernel in naming if kernel.kind not in _GENERATED]
    chosen = products or [kernel for kernel in naming if kernel.constants]
    if not chosen:
        return _precision_of_nameless(kernels)
    kinds = {_operands(kernel, weighted=bool(products)) for kernel in chosen}
    return (kinds.pop() if len(kinds) == 1 else "mixed"), _evidence(chosen[0])


def _precision_of_nameless(kernels: Sequence[Kernel]) -> tuple[str, str]:
    """Return what the kernels compute in that have weights and name no node; unread where they differ."""
    nameless = [each for each in kernels if not each.nodes and each.inputs and each.constants]
    products = [kernel for kernel in nameless if kernel.kind not in _GENERATED]
    kinds = {_operands(kernel, weighted=True) for kernel in products}
    if len(kinds) != 1:
        return UNREAD, "no kernel names it"
    return kinds.pop(), f"no kernel names it; {_evidence(products[0])}, which names no node"


def _evidence(kernel: Kernel) -> str:
    return f"{kernel.kind} kernel of {'/'.join(kernel.inputs[:1] + kernel.constants[:1])}"


def _operands(kernel: Kernel, *, weighted: bool) -> str:
    """Return the type both operands of a product have; a generated kernel's constants are not all weights."""
    kinds = {kernel.inputs[0], *(kernel.constants[:1] if weighted else ())}
    return kinds.pop() if len(kinds) == 1 else "mixed"

"""The first layer of a file whose error exceeds its share, and the layers that should stay in float32.

The reference selects by the file's own indices, so its maps lie where the file's lie. Each of its layers then gets the
map that the file gave the same layer, and only what the layer itself does is compared: its *own error*, relative, as a
root mean square over all images. So one run tells for all layers what a search by halves would tell for one.
`accumulated_error` compares the maps without that help; where it grows and no layer's own error does, the fault stands
between two layers, in a selection, a padding or a pooling.

A layer's *share*: independent errors add up as squares, so each of L layers may make ``limit / sqrt(L)`` of what the
logits may differ by.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError
from aps_deploy.verification.certificate import Check
from aps_deploy.verification.comparing import Images, finite_or_none
from aps_deploy.verification.gates import Gate
from aps_deploy.verification.layer_precision import LayerPrecision
from aps_deploy.verification.localisation.advice import LayerError, advised, shrink_factor
from aps_deploy.verification.localisation.file_layers import FileLayer, run_layers
from aps_deploy.verification.localisation.reference_layers import ModuleOutputs, module_outputs
from aps_deploy.verification.references.checkpoint import CheckpointReference

if TYPE_CHECKING:
    import onnx

    from aps_deploy.runtimes import Session

Array = npt.NDArray[Any]

DEFAULT_LIMIT = 0.05
"""Relative error of the logits where the caller took every limit away."""


@dataclasses.dataclass(frozen=True)
class Localisation:
    """Where the error of a file is made.

    Attributes:
        first: the first layer whose own error exceeds its share; None where none does.
        first_apart: the first layer whose accumulated error exceeds what it and all layers before it may add up to.
        share: largest relative error of a layer.
        keep_fp32: layers of lower precision that should stay float32, worst first, so that what is left fits the limit.
        layers: those that could be matched with the reference's, in order.
        unmatched: names of those that could not.
        note: what was compared, or why nothing could be.
    """

    first: str | None
    first_apart: str | None
    share: float | None
    keep_fp32: tuple[str, ...]
    layers: tuple[LayerError, ...]
    unmatched: tuple[str, ...]
    note: str

    @property
    def words(self) -> str:
        """The result as the end of a sentence."""
        if not self.layers:
            return self.note
        errors = {layer.layer: layer for layer in self.layers}
        if self.first is not None:
            own = errors[self.first].own_error
            shown = "is not finite" if own is None else f"is {own:.2g}"
            text = (
                f"first layer beyond its share of the error: {self.first}, whose own relative error {shown} "
                f"(share {self.share:.2g})"
            )
        elif self.first_apart is not None:
            text = (
                f"each layer computes as the reference's does, but the maps that {self.first_apart} makes differ: the "
                "fault is in what stands before it (a selection, a padding or a pooling)"
            )
        else:
            text = "no layer is beyond its share of the error"
        if not self.keep_fp32:
            return text
        if len(self.keep_fp32) == sum(layer.is_narrow for layer in self.layers):
            return f"{text}; every layer would have to stay in float32: export again with --precision fp32"
        keep = " ".join(f"--keep-fp32 {name}" for name in self.keep_fp32)
        return f"{text}; export again with {keep}"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        document = dataclasses.asdict(self)
        for name in ("keep_fp32", "layers", "unmatched"):
            document[name] = list(document[name])
        return document


def nowhere(note: str) -> Localisation:
    """Return a result that only says why nothing could be compared."""
    return Localisation(None, None, None, (), (), (), note)


def locate(
    graph: onnx.ModelProto,
    session: Session,
    layers: Sequence[LayerPrecision],
    reference: CheckpointReference,
    images: Images,
    forced: npt.NDArray[np.int64] | None,
    *,
    limit: float,
    shrink: float = math.inf,
) -> Localisation:
    """Return where the error of a file is made.

    Args:
        graph: of the file, inlined.
        session: in which it is verified.
        layers: of the graph, see `layer_precision.layer_precisions`.
        reference: what it is compared with.
        images: (N, 3, H, W) float32, few: every map of every layer is in memory at a time.
        forced: (N, L) the file's own indices; None lets the reference choose.
        limit: relative error that the logits may have.
        shrink: what their error must be multiplied by to pass, see `advice.shrink_factor`.
    """
    try:
        found = run_layers(graph, session, layers, images)
    except ApsError as error:
        return nowhere(f"the maps of its layers cannot be had ({error})")
    plain = module_outputs(reference, images, forced)
    matched = match_layers(found, plain)
    if not matched:
        return nowhere("no layer of the graph could be matched with a module of the reference")
    given = {plain.products.get(module, module): layer.given for layer, module in matched}
    driven = module_outputs(reference, images, forced, given)
    share = limit / math.sqrt(len(matched))
    errors = [
        _layer_error(layer, module, relative_error(layer.made, driven.outputs[module]), plain.outputs[module], share)
        for layer, module in matched
    ]
    names = {layer.layer.layer for layer, _ in matched}
    return Localisation(
        first=next((error.layer for error in errors if error.is_beyond), None),
        first_apart=_first_apart(errors, share),
        share=share,
        keep_fp32=advised(errors, limit, shrink),
        layers=tuple(errors),
        unmatched=tuple(layer.layer for layer in layers if layer.layer not in names),
        note=f"{len(errors)} layers on {len(images)} images in {session.runtime} on {session.device}",
    )


def located(
    graph: onnx.ModelProto | None,
    session: Session,
    layers: Sequence[LayerPrecision],
    reference: CheckpointReference,
    images: Images,
    forced: npt.NDArray[np.int64] | None,
    *,
    gates: Mapping[str, Gate],
    checks: Iterable[Check] = (),
) -> Localisation:
    """Return `locate` with the limit of the parity gates and what their ``checks`` measured.

    A checkpoint (no ``graph``) has no layers to compare.
    """
    if graph is None:
        return nowhere("a checkpoint has no graph whose layers could be compared")
    return locate(
        graph, session, layers, reference, images, forced, limit=relative_limit(gates), shrink=shrink_factor(checks)
    )


def relative_limit(gates: Mapping[str, Gate]) -> float:
    """Return by how much of their norm the logits may differ: ``parity_rtol``, or else what the cosine leaves.

    Two vectors of one length at a cosine c differ by ``sqrt(2 (1 - c))`` of it.
    """
    relative, cosine = gates["parity_rtol"].limit, gates["parity_cosine"].limit
    if relative is not None:
        return relative
    return DEFAULT_LIMIT if cosine is None else math.sqrt(2 * max(0.0, 1 - cosine))


def _layer_error(layer: FileLayer, module: str, own: float, reference: Array, share: float) -> LayerError:
    return LayerError(
        layer=layer.layer.layer,
        module=module,
        precision=layer.layer.precision,
        own_error=finite_or_none(own),
        accumulated_error=finite_or_none(relative_error(layer.made, reference)),
        is_beyond=not own <= share,
    )


def match_layers(layers: Iterable[FileLayer], modules: ModuleOutputs) -> tuple[tuple[FileLayer, str], ...]:
    """Return each layer of a file with the path of the module that makes the same map.

    By name, as our exports name their nodes; a file without such names is matched by order, where it has as many layers
    as the reference has modules that multiply, and each makes a map of the same shape.

    Args:
        layers: of the file.
        modules: of the reference.
    """
    layers = tuple(layers)
    pairs = [(layer, layer.module) for layer in layers if layer.module in modules.outputs]
    if not pairs:
        ordered = modules.layers()
        pairs = list(zip(layers, ordered, strict=True)) if len(layers) == len(ordered) else []
    return tuple((layer, module) for layer, module in pairs if layer.made.shape == modules.outputs[module].shape)


def relative_error(values: Array, reference: Array) -> float:
    """Return the norm of the difference by the norm of ``reference``; NaN or infinite where a value is."""
    ours, theirs = values.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        difference, size = float(np.linalg.norm(ours - theirs)), float(np.linalg.norm(theirs))
    if size == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / size


def _first_apart(errors: Sequence[LayerError], share: float) -> str | None:
    for count, error in enumerate(errors, start=1):
        if error.accumulated_error is None or error.accumulated_error > share * math.sqrt(count):
            return error.layer
    return None

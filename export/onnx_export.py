"""From a network to one ONNX file that states its selections, with what it needs to be used stored inside."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence

import onnx
import torch

import aps_deploy
from aps_deploy.errors import ApsError, InputError
from aps_deploy.export.artifact import Artifact, checked_target, sidecar_document, source_revision
from aps_deploy.export.calibration import Calibration, CalibrationSource, check_request, load_calibration
from aps_deploy.export.circular_padding import CircularPadding, resolve_circular_padding, with_concatenations
from aps_deploy.export.dynamic_size import with_dynamic_size
from aps_deploy.export.forms import PolyphaseForm, apply_form, inlined, resolve_form, selection_values
from aps_deploy.export.graph_edits import drop_traces, merge_selects, name_nodes, name_operator_values
from aps_deploy.export.kept_layers import check_kept, kept_layers
from aps_deploy.export.narrow_integers import limb_bits_of_selections, with_narrow_integers
from aps_deploy.export.plugin_nodes import forget_part_sizes
from aps_deploy.export.precisions import Precision, in_half_precision, resolve_opset, resolve_precision
from aps_deploy.export.quantisation import CalibrationMethod, quantised
from aps_deploy.export.tensorrt8 import (
    LEGACY_OPSET,
    Target,
    check_operators,
    check_target_options,
    in_legacy_opset,
    resolve_target,
)
from aps_deploy.export.tracing import trace
from aps_deploy.files import atomic_path
from aps_deploy.models import SelectingNetwork, load_checkpoint
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.runtimes.metadata import METADATA_KEY, ModelMetadata, SelectionTensors
from aps_deploy.runtimes.sidecar import sidecar_path
from aps_deploy.verification.layer_precision import count_precisions, layer_precisions

# Protobuf cannot hold more; weights in a second file would break "one exported file".
_MAX_FILE_BYTES = 2**31 - 1


def export_onnx(
    model: SelectingNetwork,
    path: str | os.PathLike[str],
    *,
    polyphase: PolyphaseForm | str = "where",
    image_size: int | tuple[int, int],
    precision: Precision | str = "fp32",
    opset: int | None = None,
    calibration: CalibrationSource | None = None,
    calibration_method: CalibrationMethod | str | None = None,
    circular_padding: CircularPadding | str = "wrap",
    keep_fp32: Sequence[str] = (),
    dynamic_size: bool = False,
    target: Target | str = "current",
) -> Artifact:
    """Write ``model`` as an ONNX file with a JSON document beside it.

    Each of the two is whole or absent. A process killed in the instant between the two renames leaves a new file beside
    an older document; sessions then refuse the file, saying so, until it is exported again.

    The file takes ``images`` (N, 3, H, W) float32, any N (and any H and W with ``dynamic_size``), and gives ``logits``
    (N, classes) float32 and ``polyphase_indices`` (N, L) int64; a network that selects nothing has no second output. An
    older file of the name is replaced.

    Args:
        model: A network of `aps_deploy.create_model` or `aps_deploy.load_checkpoint`; it is not changed.
        path: The file to write, ending in ``.onnx``.
        polyphase: ``where``, ``gather`` and ``one-pass`` use standard operators only, the last for engines (see
            `one_pass`); ``custom-op`` keeps one node per selection, its blur included, with a body of standard
            operators, for runtimes with a kernel; ``plugin`` keeps those that TensorRT's plugins compute.
        image_size: Side of the square images, or (height, width), in pixels.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``; selections, pooling, classifier, input and outputs are
            float32 in each.
        opset: Version of the standard operators, 20 to 23 (bf16: 22 or 23; int8: 20); None takes the lowest.
        calibration: ``int8`` only: the images on which ranges are measured, see `calibration.load_calibration`.
        calibration_method: ``int8`` only: ``entropy`` (default), ``minmax`` or ``percentile``.
        circular_padding: ``wrap`` is one ``Pad`` each; ``concat`` slices and concatenates, for OpenVINO, whose ``Pad``
            does not wrap. Their bits are the same.
        keep_fp32: names or patterns of convolutions that stay float32 in another precision, see `kept_layers`; the file
            declares them.
        dynamic_size: Leave height and width open; images are still prepared in ``image_size``.
        target: ``tensorrt-8`` writes what the parser of TensorRT 8.5 to 9 reads, see `tensorrt8`: opset 17, circular
            padding as ``concat``, ``polyphase_indices`` in int32, and the same numbers.

    Raises:
        InputError: an option, a size or a path that cannot be used.
        ApsError: the disk is full, the folder cannot be written, a weight is too large for the precision, or the target
            lacks an operator of the network.
    """
    file = checked_target(path, ".onnx")
    form, kind = resolve_form(polyphase), resolve_precision(precision)
    padding = resolve_circular_padding(circular_padding)
    is_legacy = _is_legacy(target, form, kind, opset, dynamic_size)
    version = resolve_opset(None if is_legacy else opset, kind)
    check_request(kind, calibration, calibration_method)
    check_kept(kind, keep_fp32)
    _check_parameters(model)
    height, width = _checked_size(model, image_size)
    preprocessing = _preprocessing_of(model, height, width)
    calibrated = None
    if calibration is not None:
        calibrated = load_calibration(calibration, calibration_method, preprocessing, height=height, width=width)
    traced = trace_onnx(model, height=height, width=width, opset=version)
    kept = kept_layers(traced.graph, keep_fp32)
    limb_bits: dict[str, int] = {}
    if is_legacy:
        traced, version, padding = with_narrow_integers(traced), LEGACY_OPSET, "concat"
        limb_bits = limb_bits_of_selections(traced)
    narrowed = in_precision(traced, kind, calibrated, kept)
    if is_legacy:
        proto = finish_for_tensorrt8(narrowed)
    else:
        proto = finish_onnx(with_dynamic_size(narrowed) if dynamic_size else narrowed, form, padding)
    metadata = dataclasses.replace(
        _describe(model, proto, form, limb_bits),
        precision=kind,
        preprocessing=preprocessing,
        kept_fp32=kept,
        calibration=None if calibrated is None else calibrated.to_dict(),
        git_revision=source_revision(),
    )
    document = {
        **metadata.to_dict(),
        "image_size": [height, width],
        "dynamic_size": dynamic_size,
        "opset": version,
        "circular_padding": padding,
        "target": target,
    }
    proto.metadata_props.add(key=METADATA_KEY, value=json.dumps(document, ensure_ascii=False, allow_nan=False))
    content = _checked_bytes(proto)
    digest = hashlib.sha256(content).hexdigest()
    found = count_precisions(layer_precisions(inlined(proto)))
    beside = sidecar_document(file, digest, document, found)
    text = json.dumps(beside, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(sidecar_path(file)) as sidecar, atomic_path(file) as temporary:
        temporary.write_bytes(content)
        sidecar.write_text(text + "\n", encoding="utf-8")
    warnings = () if calibrated is None else calibrated.warnings
    return Artifact(file, sidecar_path(file), digest, metadata, warnings)


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    polyphase: PolyphaseForm | str = "where",
    image_size: int | tuple[int, int] | None = None,
    precision: Precision | str = "fp32",
    opset: int | None = None,
    calibration: CalibrationSource | None = None,
    calibration_method: CalibrationMethod | str | None = None,
    circular_padding: CircularPadding | str = "wrap",
    keep_fp32: Sequence[str] = (),
    dynamic_size: bool = False,
    target: Target | str = "current",
) -> Artifact:
    """Write the network of a checkpoint, or of a packaged name, as an ONNX file; see `export_onnx`.

    Args:
        checkpoint: A file of ``aps-deploy train`` or ``import``, or a packaged name.
        path: The file to write.
        polyphase: The form of the selections.
        image_size: None takes the size the checkpoint was made for.
        precision: The arithmetic.
        opset: Version of the standard operators.
        calibration: Images of an ``int8`` file.
        calibration_method: How an ``int8`` file takes its ranges.
        circular_padding: How circular padding is written.
        keep_fp32: Layers that stay float32.
        dynamic_size: Leave height and width open.
        target: What the file is written for.

    Raises:
        InputError: as in `export_onnx`, or the checkpoint cannot be read.
        ApsError: as in `export_onnx`.
    """
    checked_target(path, ".onnx")
    form, kind = resolve_form(polyphase), resolve_precision(precision)
    resolve_circular_padding(circular_padding)
    # Said before the checkpoint is read, which imports and builds a network.
    is_legacy = _is_legacy(target, form, kind, opset, dynamic_size)
    resolve_opset(None if is_legacy else opset, kind)
    check_request(resolve_precision(precision), calibration, calibration_method)
    check_kept(resolve_precision(precision), keep_fp32)
    model = load_checkpoint(checkpoint)
    size = model.preprocessing.image_size if image_size is None else image_size
    return export_onnx(
        model,
        path,
        polyphase=polyphase,
        image_size=size,
        precision=precision,
        opset=opset,
        calibration=calibration,
        calibration_method=calibration_method,
        circular_padding=circular_padding,
        keep_fp32=keep_fp32,
        dynamic_size=dynamic_size,
        target=target,
    )


def _is_legacy(
    target: Target | str, form: PolyphaseForm, precision: Precision, opset: int | None, dynamic_size: bool
) -> bool:
    """Return whether a file is written for TensorRT 8, after looking whether it can be."""
    name = resolve_target(target)
    check_target_options(name, polyphase=form, precision=precision, opset=opset, dynamic_size=dynamic_size)
    return name == "tensorrt-8"


def trace_onnx(model: SelectingNetwork, *, height: int, width: int, opset: int) -> onnx.ModelProto:
    """Return ``model`` as a tidied ONNX graph whose custom nodes have no bodies yet; `finish_onnx` gives them.

    Args:
        model: The network; it is not changed.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        opset: Version of the standard operators.
    """
    proto = trace(model, height=height, width=width, opset=opset)
    name_nodes(proto.graph)
    name_operator_values(proto.graph)
    drop_traces(proto)
    merge_selects(proto.graph)
    proto.producer_name, proto.producer_version = "aps-deploy", aps_deploy.__version__
    proto.graph.name = model.spec.name
    return proto


def in_precision(
    traced: onnx.ModelProto, precision: Precision, calibration: Calibration | None, kept: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a float32 graph of `trace_onnx`, which is not changed, in one of the precisions.

    Args:
        traced: The graph.
        precision: The arithmetic; ``int8`` needs a ``calibration``.
        calibration: The images that ``int8`` takes its ranges from.
        kept: Names of convolutions that stay float32.

    Raises:
        ApsError: a weight is beyond the largest number of the precision.
    """
    if precision == "fp32":
        return traced
    if precision == "int8":
        assert calibration is not None
        return quantised(traced, calibration.images, calibration.method, kept)
    return in_half_precision(traced, precision, kept)


def finish_onnx(
    traced: onnx.ModelProto, form: PolyphaseForm, circular_padding: CircularPadding = "wrap"
) -> onnx.ModelProto:
    """Return a graph of `trace_onnx`, which is not changed, in one of the five forms, with all shapes inferred."""
    proto = apply_form(traced, form)
    if circular_padding == "concat":
        proto = with_concatenations(proto)
    del proto.graph.value_info[:]
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    forget_part_sizes(proto)
    return proto


def finish_for_tensorrt8(narrow: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of `with_narrow_integers`, which is not changed, as the parser of TensorRT 8.5 reads it.

    Raises:
        ApsError: the network has an operator that it does not read.
    """
    proto = finish_onnx(in_legacy_opset(narrow), "where", "concat")
    check_operators(proto)
    return proto


def _describe(
    model: SelectingNetwork, proto: onnx.ModelProto, form: PolyphaseForm, limb_bits: Mapping[str, int]
) -> ModelMetadata:
    layers = model.selection_layers
    values = selection_values(proto) if layers else []
    selections = tuple(
        SelectionTensors(layer, index, scores, limb_bits.get(index))
        for layer, (index, scores) in zip(layers, values, strict=True)
    )
    return dataclasses.replace(ModelMetadata.from_model(model), selections=selections, polyphase=form)


def _preprocessing_of(model: SelectingNetwork, height: int, width: int) -> Preprocessing | None:
    preprocessing: Preprocessing | None = getattr(model, "preprocessing", None)
    if height != width or preprocessing is None:
        return None  # it crops squares; whoever exports a rectangle prepares the images too
    return preprocessing.for_size(height)  # the file takes one size only


def _checked_bytes(proto: onnx.ModelProto) -> bytes:
    if proto.ByteSize() > _MAX_FILE_BYTES:
        raise ApsError(
            f"the ONNX file would have {proto.ByteSize()} bytes, and the format holds at most {_MAX_FILE_BYTES}; "
            "export a smaller architecture."
        )
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _check_parameters(model: SelectingNetwork) -> None:
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if dtypes - {torch.float32}:
        seen = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise InputError(
            f"the network's parameters are {seen}, and export takes float32, whatever the precision of the file; "
            "call model.float()."
        )


def _checked_size(model: SelectingNetwork, image_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 1 or width < 1:
        raise InputError(f"image size {height}x{width} is not positive; use {model.spec.default_image_size}.")
    if model.size_divisor == model.spec.size_divisor:  # not so where odd maps are padded, as the authors do
        model.spec.check_size(height, width, model.options.padding)
    return height, width

"""Rewritings of an exported file that change nothing it computes beyond the rounding of float32.

Other tools, other versions and other habits of writing do them; a verifier that flags one is no use to anybody. Each
takes a model, which it may change, and returns the rewritten one. `faithful_layers` has those that write layers
otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from aps_deploy.runtimes import METADATA_KEY
from tests.verification.sabotage import insert_after

Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto]


def unchanged(model: onnx.ModelProto) -> onnx.ModelProto:
    return model


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx.inliner

    return onnx.inliner.inline_local_functions(model)


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Clear all that describes and computes nothing: inner shapes, names of nodes, notes, the producer."""
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
    model.doc_string = model.graph.doc_string = model.producer_name = model.producer_version = ""
    return model


def annotated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add notes, a property of another tool, another name of the graph and an initializer that nobody reads."""
    model.doc_string, model.graph.name, model.producer_name = "for the other team", "main_graph", "converter"
    model.metadata_props.add(key="onnx.infer", value="something else")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "left_over"))
    return model


def shapes_inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def in_another_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the nodes into another topological order, and the initializers backwards."""
    generator = np.random.default_rng(0)
    waiting, done = list(model.graph.node), {value.name for value in model.graph.input}
    done |= {tensor.name for tensor in model.graph.initializer}
    ordered: list[NodeProto] = []
    while waiting:
        ready = [node for node in waiting if done.issuperset(filter(None, node.input))]
        chosen = ready[generator.integers(len(ready))]
        waiting.remove(chosen)
        done.update(chosen.output)
        ordered.append(NodeProto.FromString(chosen.SerializeToString()))
    tensors = [TensorProto.FromString(tensor.SerializeToString()) for tensor in reversed(model.graph.initializer)]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(ordered)
    model.graph.initializer.extend(tensors)
    return model


def renamed_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    return model


def _renamed(model: onnx.ModelProto, kept: set[str]) -> dict[str, str]:
    """Number every value but the kept ones; return the new names by the old ones."""
    names: dict[str, str] = {}

    def new(name: str) -> str:
        return name if not name or name in kept else names.setdefault(name, f"value_{len(names)}")

    graph = model.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = new(value.name)
    for node in graph.node:
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    return names


def _selections(model: onnx.ModelProto) -> Iterator[tuple[onnx.StringStringEntryProto, dict[str, object]]]:
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            yield entry, json.loads(entry.value)


def renamed_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rename every value that the metadata does not name."""
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    for _, document in _selections(model):
        kept |= {entry[what] for entry in document["selections"] for what in ("index", "scores")}  # type: ignore[attr-defined]
    _renamed(model, kept)
    return model


def renamed_everything(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rename the input and every inner value, and let the metadata name the selections' new ones."""
    names = _renamed(model, {value.name for value in model.graph.output})
    for entry, document in _selections(model):
        for selection in document["selections"]:  # type: ignore[attr-defined]
            selection.update({what: names[selection[what]] for what in ("index", "scores")})
        entry.value = json.dumps(document)
    return model


def constants_as_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write every initializer as a Constant node."""
    made = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    return _with_constants(model, made)


def constants_as_attributes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write small constants as Constant nodes with plain numbers in their attributes, as some converters do."""
    made = []
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        kind = {np.dtype(np.int64): "value_int", np.dtype(np.float32): "value_float"}.get(values.dtype)
        if kind is None or values.ndim > 1 or values.size > 16:
            made.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        elif values.ndim == 1:
            made.append(helper.make_node("Constant", [], [tensor.name], **{f"{kind}s": values.tolist()}))
        else:
            made.append(helper.make_node("Constant", [], [tensor.name], **{kind: values.item()}))
    return _with_constants(model, made)


def _with_constants(model: onnx.ModelProto, made: list[NodeProto]) -> onnx.ModelProto:
    rest = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend([*made, *rest])
    return model


def typed_storage(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store numbers in the typed fields of tensors instead of as raw bytes."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        field = {np.dtype(np.float32): "float_data", np.dtype(np.int64): "int64_data"}[values.dtype]
        tensor.ClearField("raw_data")
        getattr(tensor, field).extend(values.ravel().tolist())
    return model


def with_batch(size: int) -> Rewrite:
    """Return a rewriting that fixes the number of images of one run."""

    def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
        del model.graph.value_info[:]
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = size
        return model

    return rewrite


def nameless_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """State no batch, height or width in the input."""
    del model.graph.value_info[:]
    for position in (0, 2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[position].Clear()
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


def one_more_output(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the pooled features out as well."""
    pooled = next(node.input[0] for node in model.graph.node if node.op_type == "Gemm")
    model.graph.output.append(helper.make_tensor_value_info(pooled, TensorProto.FLOAT, None))
    return model


def with_identities(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put an Identity behind every fifth node and behind every initializer of the selections."""
    produced = [node.output[0] for node in list(model.graph.node)[::5]]
    kept = {value.name for value in model.graph.output}
    for value in produced:
        if value not in kept:
            insert_after(model, value, [helper.make_node("Identity", [value], [f"{value}_again"])])
    shared = [tensor.name for tensor in model.graph.initializer if tensor.name.startswith("shared_constant")]
    for name in shared:
        for node in model.graph.node:
            node.input[:] = [f"{name}_again" if each == name else each for each in node.input]
        model.graph.node.insert(0, helper.make_node("Identity", [name], [f"{name}_again"]))
    return model


def converted_to(opset: int) -> Rewrite:
    """Return a rewriting by onnx's own converter between versions of the operators."""

    def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
        from onnx import version_converter

        properties = list(model.metadata_props)
        converted = version_converter.convert_version(model, opset)
        del converted.metadata_props[:]
        converted.metadata_props.extend(properties)
        return converted

    return rewrite


def slimmed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Optimise with onnxslim."""
    import onnxslim

    return onnxslim.slim(model)


def folded_by_onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    """Optimise with onnxscript: constant folding, dead and common code."""
    from onnxscript import optimizer

    return optimizer.optimize(model)


def optimised_by_onnxruntime(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Optimise offline with ONNX Runtime, at the level that writes standard operators only."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")

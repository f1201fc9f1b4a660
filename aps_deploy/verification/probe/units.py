"""Pieces of an ONNX graph, cut out and run alone: one node, or the nodes of a region taken as one.

A piece keeps its operators, its opset and its constants as they are; what else it reads becomes its inputs. It runs
with the options of every session here, so that a convolution alone is rewritten as a convolution in the file would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import onnx
from onnx import helper, numpy_helper

from aps_deploy.errors import ApsError
from aps_deploy.verification.probe.states import Array

ProbeRuntime = Literal["onnxruntime", "onnx-reference"]
Prepared = Callable[[Mapping[str, Array]], list[Array]]
"""Takes the inputs by name and returns the outputs in order."""


def prepare(model: onnx.ModelProto, runtime: ProbeRuntime, num_threads: int | None = None) -> Prepared:
    """Return what runs ``model`` on the CPU.

    Raises:
        ApsError: the runtime cannot load it; when it runs, also where it fails.
    """
    from aps_deploy.runtimes.onnx_files import one_line

    names = [value.name for value in model.graph.output]
    try:
        run = _in_reference(model) if runtime == "onnx-reference" else _in_onnxruntime(model, num_threads)
    except Exception as error:  # both raise classes of their own, without a common base
        raise ApsError(f"{runtime} cannot load a part of the graph alone ({one_line(error)}).") from error

    def checked(feeds: Mapping[str, Array]) -> list[Array]:
        try:
            return run(names, dict(feeds))
        except Exception as error:
            raise ApsError(f"{runtime} failed on a part of the graph ({one_line(error)}).") from error

    return checked


def _in_onnxruntime(model: onnx.ModelProto, num_threads: int | None) -> Callable[[list[str], Any], list[Array]]:
    from aps_deploy.runtimes.onnxruntime_session import session_options, start_session

    session = start_session(model.SerializeToString(), "cpu", session_options(num_threads), "a part of the graph")
    run: Callable[[list[str], Any], list[Array]] = session.run
    return run


def _in_reference(model: onnx.ModelProto) -> Callable[[list[str], Any], list[Array]]:
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(model)
    run: Callable[[list[str], Any], list[Array]] = evaluator.run
    return run


def with_all_outputs(model: onnx.ModelProto, wanted: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of ``model`` whose outputs are exactly the values ``wanted``."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    typed = {value.name: value for value in copy.graph.output}
    # Without a type the runtime infers it.
    values = [typed.get(name) or onnx.ValueInfoProto(name=name) for name in wanted]
    del copy.graph.output[:]
    copy.graph.output.extend(values)
    return copy


def reads(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the values a node reads, each once, those that only graphs inside it (If, Loop, Scan) read among them."""
    return tuple(dict.fromkeys(name for name in (*node.input, *_read_inside(node)) if name))


def _read_inside(node: onnx.NodeProto) -> Iterator[str]:
    for entry in node.attribute:
        for graph in ([entry.g] if entry.HasField("g") else []) + list(entry.graphs):
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own |= {name for inner in graph.node for name in inner.output}
            read = [name for inner in graph.node for name in reads(inner)]
            yield from (name for name in (*read, *(value.name for value in graph.output)) if name not in own)


def cut_out(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    output: str,
    arrays: Mapping[str, Array],
    constants: frozenset[str],
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a model of the ``nodes`` that makes the value ``output``, and the names of its inputs.

    Args:
        model: where they come from; gives opsets and version.
        nodes: in topological order.
        output: a value that one of them makes.
        arrays: every value that they read, for types and shapes.
        constants: values that do not depend on the image; they become weights of the piece.
    """
    made = {name for node in nodes for name in node.output}
    read = tuple(dict.fromkeys(name for node in nodes for name in reads(node) if name not in made))
    inputs = tuple(name for name in read if name not in constants)
    weights = [numpy_helper.from_array(arrays[name], name) for name in read if name in constants]
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(arrays[name].dtype), arrays[name].shape)
        for name in inputs
    ]
    graph = helper.make_graph(list(nodes), "part", declared, [onnx.ValueInfoProto(name=output)], weights)
    piece = helper.make_model(graph, opset_imports=list(model.opset_import))
    piece.ir_version = model.ir_version
    return piece, inputs

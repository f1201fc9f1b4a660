"""From the bytes of an ONNX file to a TensorRT network, and one sentence where the parser refuses."""

from __future__ import annotations

from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.export.engines.profiles import Size
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit


def new_network(toolkit: Toolkit, builder: Any) -> Any:
    """Return an empty network whose types are those of the ONNX graph, and nobody's choice."""
    flags = toolkit.module.NetworkDefinitionCreationFlag.__members__
    # From TensorRT 11 on, and in TensorRT for RTX, networks are never anything else; 10 has to be told.
    return builder.create_network(1 << int(flags["STRONGLY_TYPED"]) if "STRONGLY_TYPED" in flags else 0)


def parse_onnx(toolkit: Toolkit, logger: Any, network: Any, content: bytes, name: str) -> Any:
    """Fill ``network`` from the bytes of an ONNX file; return the parser, which must outlive the network's use.

    Args:
        toolkit: the loaded toolkit.
        logger: its logger.
        network: an empty network.
        content: the file's bytes.
        name: what to call the file in an error.

    Raises:
        InputError: the parser refuses the file: an operator it does not know, a damaged file.
    """
    parser = toolkit.module.OnnxParser(network, logger)
    if parser.parse(content):
        return parser
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        raise InputError(f"{toolkit.info.title} {toolkit.version} cannot parse {name}; export it again.")
    first = errors[0]
    node, operator = _word(first, "node_name"), _word(first, "node_operator")
    reason = " ".join(str(first.desc()).split())
    if "plugin" in reason.lower():
        raise InputError(
            f"{name} holds the operator {operator or node or 'of a custom domain'}, unknown to {toolkit.info.title}, "
            "and for which the file brings no body; export it with --polyphase where, or compile the checkpoint."
        )
    where = f" at {operator} {node}".rstrip() if operator or node else ""
    raise InputError(f"{toolkit.info.title} {toolkit.version} cannot parse {name}{where} ({reason}); export it again.")


def image_input(network: Any, name: str) -> Any:
    """Return the network's one input, which takes images (N, C, H, W).

    Raises:
        InputError: the file has several inputs, or one of another shape.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] < 1:
        shapes = ", ".join(f"{value.name} {tuple(value.shape)}" for value in inputs) or "none"
        raise InputError(f"{name} does not take one tensor of images (N, C, H, W); its inputs: {shapes}.")
    return inputs[0]


def fixed_size(images: Any) -> Size | None:
    """Return (H, W) of an image input; None where either is dynamic."""
    height, width = int(images.shape[2]), int(images.shape[3])
    return (height, width) if height > 0 and width > 0 else None


def tensor_types(network: Any) -> dict[str, str]:
    """Return numpy's names of the types that a network's inputs and outputs have, by the tensors' names."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return {value.name: numpy_name(value.dtype) for value in (*inputs, *outputs)}


def numpy_name(dtype: Any) -> str:
    """Return numpy's name of one of TensorRT's types."""
    name = str(dtype.name).lower()
    return {"float": "float32", "half": "float16", "bf16": "bfloat16"}.get(name, name)


def _word(error: Any, name: str) -> str:
    method = getattr(error, name, None)
    return str(method()) if method is not None else ""

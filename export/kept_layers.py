"""Layers that stay in float32 in a file of another precision, by the names that people know them by."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import onnx

from aps_deploy.errors import InputError, near_matches
from aps_deploy.export.precisions import Precision

_LAYER = "Conv"
"""The operator that other precisions narrow; the classifier, the one other layer, is float32 in each."""


def check_kept(precision: Precision, patterns: Sequence[str]) -> None:
    """Refuse kept layers where every layer is float32 anyway.

    Raises:
        InputError: they were asked for in a float32 file.
    """
    if patterns and precision == "fp32":
        raise InputError("--keep-fp32 is for fp16, bf16 and int8 files, and the precision is fp32; leave it out.")


def kept_layers(graph: onnx.GraphProto, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the nodes of a traced graph that ``patterns`` name, in graph order.

    Args:
        graph: of `trace_onnx`.
        patterns: each a shell pattern for the node's name as `verify` shows it (``layer3.0.bn1/Conv``), for the part
            before its slash, or for the module that holds its weights (``layer3.0.conv1``).

    Raises:
        InputError: a pattern fits no convolution; the message lists the nearest names.
    """
    layers = [node for node in graph.node if node.op_type == _LAYER and not node.domain]
    readers = Counter(node.input[1] for node in layers)
    names = {node.name: _names_of(node, readers) for node in layers}
    kept: set[str] = set()
    for pattern in patterns:
        found = {name for name, others in names.items() if any(fnmatch.fnmatchcase(each, pattern) for each in others)}
        if not found:
            known = sorted({each for others in names.values() for each in others})
            raise InputError(
                f"--keep-fp32 {pattern} names no layer of the network{near_matches(pattern, known)}; give the name of "
                f"a convolution, such as {next(iter(names))}, or a pattern such as 'layer1.*'."
            )
        kept |= found
    return tuple(name for name in names if name in kept)


def _names_of(node: onnx.NodeProto, readers: Mapping[str, int]) -> tuple[str, ...]:
    # Blurs of one size share their weights, under the name of the first.
    module = node.input[1].rpartition(".")[0] if readers[node.input[1]] == 1 else ""
    return tuple(dict.fromkeys((node.name, node.name.rpartition("/")[0], *([module] if module else []))))

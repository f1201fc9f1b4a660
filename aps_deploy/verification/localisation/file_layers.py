"""What the layers of a file read and make, taken out of a copy of its graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aps_deploy.verification.comparing import Images
from aps_deploy.verification.layer_precision import LayerPrecision

if TYPE_CHECKING:
    import onnx

    from aps_deploy.runtimes import Session

Array = npt.NDArray[Any]

# Between a map and the layer that reads it: they pad it and change its type.
_ON_THE_WAY = {"Cast", "DequantizeLinear", "Identity", "Pad", "QuantizeLinear"}


@dataclasses.dataclass(frozen=True)
class FileLayer:
    """One layer of a file.

    Attributes:
        layer: its name and its precision.
        module: path of the PyTorch module that the name tells of; empty where it tells of none.
        given: what it reads, before padding and rounding to another type; (N, C, H, W) float32.
        made: what it makes, float32.
    """

    layer: LayerPrecision
    module: str
    given: Array
    made: Array


def run_layers(
    graph: onnx.ModelProto, session: Session, layers: Iterable[LayerPrecision], images: Images
) -> tuple[FileLayer, ...]:
    """Return the layers of the inlined ``graph`` with what they read and make for ``images``, in order.

    Args:
        graph: of the file.
        session: says where it is verified; the copy runs there too.
        layers: of the graph.
        images: (N, 3, H, W) float32, few.

    Raises:
        ApsError: the copy cannot be run with these values as outputs.
        InputError: it cannot be loaded.
    """
    from aps_deploy.runtimes import open_session
    from aps_deploy.verification.probe.units import with_all_outputs

    nodes = {node.name or node.output[0]: node for node in graph.graph.node}
    makers = {name: node for node in graph.graph.node for name in node.output}
    image = session.input_spec.name
    wanted = []
    for layer in layers:
        node = nodes[layer.layer]
        given = node.input[0]
        while given in makers and makers[given].op_type in _ON_THE_WAY:
            given = makers[given].input[0]
        wanted.append((layer, node, given, node.output[0]))
    first = graph.graph.output[0].name
    names = dict.fromkeys([first, *(name for *_, given, made in wanted for name in (given, made) if name != image)])
    with open_session(with_all_outputs(graph, names), runtime=session.runtime, device=session.device) as copy:
        outputs = copy.run(images)
        # A session calls the first output "logits", whatever the file calls it.
        values = dict(zip(names, (outputs[name] for name in copy.output_names), strict=True))
    values[image] = images
    return tuple(
        FileLayer(
            layer, node.name.rpartition("/")[0], *(np.asarray(values[name], np.float32) for name in (given, made))
        )
        for layer, node, given, made in wanted
    )

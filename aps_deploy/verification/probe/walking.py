"""One image through the graph, node by node: is each output, for moved inputs, the moved output?

Every node gets the real values it has for the image. Its inputs are moved as they must be when the image moves, it runs
alone, and what it makes is compared, bit for bit, with its own output moved. By induction a file of which every piece
keeps its promise is equivariant, as far as it runs its pieces as they run alone; that last doubt is measured on the
whole file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from aps_deploy.errors import ApsError
from aps_deploy.runtimes.session import INDICES
from aps_deploy.verification.probe.grids import Grid, Offset, common_ancestor, local_offsets
from aps_deploy.verification.probe.rules import REARRANGING, closing, hypotheses
from aps_deploy.verification.probe.states import (
    STILL,
    Array,
    Moving,
    Open,
    State,
    Value,
    image_state,
    moved,
    same_bits,
)
from aps_deploy.verification.probe.units import Prepared, ProbeRuntime, cut_out, prepare, reads, with_all_outputs

_EMPTY = Value(STILL, np.zeros(0, np.int64))


@dataclasses.dataclass(frozen=True)
class Failure:
    """A piece of the graph whose output is not the shifted output.

    Attributes:
        nodes: positions of its nodes in the graph, in order; the first is named.
        output: the value that was compared.
        inputs: what the piece reads that depends on the image.
        offset: how far the inputs' common grid was moved, in its pixels.
        movements: how far each moving input moved.
        expected: the output moved.
        found: the output for the moved inputs.
    """

    nodes: tuple[int, ...]
    output: str
    inputs: tuple[str, ...]
    offset: Offset
    movements: tuple[Offset, ...]
    expected: Array
    found: Array


class Walk:
    """A graph that is walked with one image after the other.

    Args:
        model: without model-local functions.
        input_name: its image input.
        runtime: what runs the pieces.
        num_threads: threads of one run in ONNX Runtime; None leaves its choice.

    Raises:
        ApsError: the runtime cannot run the graph with all values as outputs.
    """

    def __init__(
        self, model: onnx.ModelProto, input_name: str, runtime: ProbeRuntime, num_threads: int | None = None
    ) -> None:
        self.model = model
        self.nodes: Sequence[onnx.NodeProto] = list(model.graph.node)
        self.outputs = [value.name for value in model.graph.output]
        self.input_name = input_name
        self._runtime: ProbeRuntime = runtime
        self._num_threads = num_threads
        self._weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._live = self._find_live()
        self._made = [name for position in self._live for name in self.nodes[position].output if name]
        self._constants = self._find_constants()
        self._run_whole = prepare(with_all_outputs(model, self._made), runtime, num_threads)
        self.arrays: dict[str, Array] = {}
        self.states: dict[str, State] = {}
        self.num_checked = 0

    def _find_live(self) -> list[int]:
        """Return the positions of the nodes that an output depends on; what nobody reads breaks no promise."""
        wanted, live = set(self.outputs), []
        for position in reversed(range(len(self.nodes))):
            if not wanted.isdisjoint(self.nodes[position].output):
                wanted.update(reads(self.nodes[position]))
                live.append(position)
        return live[::-1]

    def _find_constants(self) -> frozenset[str]:
        found = set(self._weights)
        for node in self.nodes:
            if self.input_name not in reads(node) and all(name in found for name in reads(node)):
                found.update(node.output)
        return frozenset(found)

    def failures(self, image: Array, shift: Offset | None = None) -> Iterator[Failure]:
        """Yield every piece that fails on an image (N, C, H, W), in the order of the graph.

        Args:
            image: as the graph takes it.
            shift: how far the image moves; None tries every piece with a few offsets of its own map instead, so that
                deep maps move by odd numbers of pixels too.
        """
        values = self._run_whole({self.input_name: image})
        self.arrays = {self.input_name: image, **self._weights, **dict(zip(self._made, values, strict=True))}
        self.states = {self.input_name: image_state(image.shape), **dict.fromkeys(self._constants, STILL)}
        self.num_checked = 0
        for position in self._live:
            node = self.nodes[position]
            if any(name not in self._constants for name in node.output if name):
                yield from self._at(position, node, shift)
        for name in self.outputs:
            # The reported choices change, as they must; all else that leaves the graph has to be judged.
            if isinstance(self.states[name], Open) and name != INDICES:
                yield from self._settle(name, shift)

    def _at(self, position: int, node: onnx.NodeProto, shift: Offset | None) -> Iterator[Failure]:
        opened = [name for name in reads(node) if isinstance(self.states[name], Open)]
        if opened and node.op_type not in REARRANGING:
            for name in opened:
                yield from self._settle(name, shift)
            opened = []
        inputs = [Value(self.states[name], self.arrays[name]) if name else _EMPTY for name in node.input]
        inside = [Value(self.states[name], self.arrays[name]) for name in reads(node) if name not in node.input]
        region = frozenset({position}).union(*(self._region(name) for name in opened))
        for output in filter(None, node.output):
            wanted = None if opened else hypotheses(node, [*inputs, *inside], self.arrays[output])
            if wanted is None:
                self.states[output] = self._closed(region, output, shift)
            else:
                state, failure = self._tried(region, output, wanted, shift)
                self.states[output] = state or wanted[0]
                if failure is not None:
                    yield failure

    def is_constant(self, name: str) -> bool:
        """Return whether a value does not depend on the image."""
        return name in self._constants

    def _region(self, name: str) -> frozenset[int]:
        state = self.states[name]
        return state.region if isinstance(state, Open) else frozenset()

    def _closed(self, region: frozenset[int], output: str, shift: Offset | None) -> State:
        """Return the state of an output if its region, taken as one, is equivariant; else leave it open."""
        array = self.arrays[output]
        if array.dtype.kind in "iub":
            return Open(region)  # a choice or a count on the way to one; what is chosen is a map
        wanted = closing(self._grids(region), array)
        state = self._tried(region, output, wanted, shift)[0] if wanted else None
        return state or Open(region)

    def _settle(self, name: str, shift: Offset | None) -> Iterator[Failure]:
        """Judge an open value as it is, because something reads it that does not only rearrange."""
        region = self._region(name)
        wanted = closing(self._grids(region), self.arrays[name]) or [STILL]
        state, failure = self._tried(region, name, wanted, shift)
        self.states[name] = state or wanted[0]
        if failure is not None:
            yield failure

    def _grids(self, region: frozenset[int]) -> list[Grid]:
        states = (self.states.get(name) for position in sorted(region) for name in reads(self.nodes[position]))
        return [state.grid for state in states if isinstance(state, Moving)]

    def _tried(
        self, region: frozenset[int], output: str, wanted: Sequence[State], shift: Offset | None
    ) -> tuple[State | None, Failure | None]:
        """Return the first of the ``wanted`` states that the output keeps; else the first failure."""
        grids = list(dict.fromkeys(self._grids(region)))
        if not grids:
            return wanted[0], None  # nothing that it reads moves
        ancestor = list(grids[0].lineage())[-1] if shift is not None else common_ancestor(grids)
        offsets = local_offsets(ancestor) if shift is None else (shift,)
        run, inputs = self._piece(region, output)
        feeds = {name: self.arrays[name] for name in inputs}
        base = run(feeds)[0]
        remaining = list(wanted)
        self.num_checked += 1
        for offset in offsets:
            movements = {grid: grid.movement(ancestor, offset) for grid in grids}
            if all(grid.is_still(movement) for grid, movement in movements.items()):
                continue
            found = run({name: self._moved(name, movements) for name in inputs})[0]
            expected = [_expected(base, state, ancestor, offset) for state in remaining]
            kept = [state for state, each in zip(remaining, expected, strict=True) if same_bits(each, found)]
            if not kept:
                order = tuple(sorted(region))
                return None, Failure(order, output, inputs, offset, tuple(movements.values()), expected[0], found)
            remaining = kept
        return remaining[0], None

    def _moved(self, name: str, movements: dict[Grid, Offset]) -> Array:
        state = self.states[name]
        return moved(self.arrays[name], state, movements[state.grid] if isinstance(state, Moving) else (0, 0))

    def _piece(self, region: frozenset[int], output: str) -> tuple[Prepared, tuple[str, ...]]:
        # Made anew for every image: each session of ONNX Runtime has threads of its own, hundreds would be too many.
        nodes = [self.nodes[position] for position in sorted(region)]
        model, inputs = cut_out(self.model, nodes, output, self.arrays, self._constants)
        try:
            return prepare(model, self._runtime, self._num_threads), inputs
        except ApsError as error:
            raise ApsError(f"{nodes[-1].name or output}: {error}") from error


def _expected(base: Array, state: State, ancestor: Grid, offset: Offset) -> Array:
    return moved(base, state, state.grid.movement(ancestor, offset)) if isinstance(state, Moving) else base

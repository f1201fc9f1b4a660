"""TensorRT and TensorRT for RTX engines: plans with the document that export wrote beside them, on a CUDA device.

PyTorch owns the memory and the streams. Each lane of a session is a stream with runners of its own, one for each shape
(`ShapeRunner`), so as many threads run images at once as there are lanes.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.runtimes.availability import RuntimeName
from aps_deploy.runtimes.inputs import InputSpec
from aps_deploy.runtimes.session import INDICES, LOGITS, BaseSession
from aps_deploy.runtimes.tensorrt.loading import LoadedEngine
from aps_deploy.runtimes.tensorrt.plan_file import check_fits, check_kind, read_plan_file
from aps_deploy.runtimes.tensorrt.shape_ranges import Piece, Shape, ShapeRange, pieces_of, ranges_of
from aps_deploy.runtimes.tensorrt.shape_runner import ShapeRunner, torch_dtype_name
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS, EngineKind, Toolkit, load_toolkit

MAX_SHAPES = 4
"""Shapes kept ready in each lane; each holds memory for its maps, so the one unused for longest makes room."""

_KINDS: dict[str, EngineKind] = {info.runtime: info.kind for info in TOOLKITS.values()}


class TensorRtSession(BaseSession):
    """An engine in TensorRT or TensorRT for RTX, on the first CUDA device.

    Batches of any size run: larger ones than the engine takes are cut, smaller ones are filled up. Runs of a shape are
    replays of a CUDA graph from the second on where the engine allows it.

    Args:
        path: the plan; its document must stand beside it.
        runtime: ``tensorrt`` or ``tensorrt-rtx``; None takes the one that made the plan.
        num_contexts: threads that can run images at once; further ones wait.
        toolkit: a loaded toolkit; None loads the one that the runtime names.

    Raises:
        InputError: plan or document is missing, damaged or changed; the plan is of another toolkit, version or GPU;
            the toolkit, PyTorch's CUDA support, driver or GPU is not there.
        ApsError: the toolkit is installed and cannot be loaded.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        runtime: RuntimeName | None = None,
        num_contexts: int = 1,
        toolkit: Toolkit | None = None,
    ) -> None:
        if num_contexts < 1:
            raise InputError(f"the number of contexts is {num_contexts}; it must be at least 1.")
        plan = read_plan_file(path)
        kind = plan.header.kind if runtime is None else _KINDS[runtime]
        check_kind(plan, kind)
        source = os.fspath(path)
        found = toolkit or load_toolkit(kind, wanted_by=source, builds=False)
        check_fits(plan, found)
        _check_torch(source)
        self._loaded = LoadedEngine(plan, found)
        self._input_name, names = _tensor_names(self._loaded, source)
        self._outputs = names
        self._ranges = ranges_of(self._loaded.engine, self._input_name)
        self._lanes: queue.LifoQueue[_Lane] = queue.LifoQueue()
        for _ in range(num_contexts):
            self._lanes.put(_Lane(self._new_runner))
        super().__init__(
            runtime=found.info.runtime,
            device="cuda",
            providers=(f"{found.info.title} {found.version}",),
            metadata=plan.metadata,
            input_spec=_input_spec(self._loaded, self._input_name, self._ranges),
            output_names=names,
            source=source,
        )

    def _execute(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        pieces = pieces_of(images.shape, self._ranges, self.source)
        with self._lane() as lane:
            parts = [self._run_piece(lane, piece, images[piece.rows]) for piece in pieces]
        return parts[0] if len(parts) == 1 else [np.concatenate(values) for values in zip(*parts, strict=True)]

    @staticmethod
    def _run_piece(lane: _Lane, piece: Piece, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        count = len(images)
        if piece.count > count:
            # Repeating the last image is always valid input; what it yields is cut off again.
            images = np.concatenate([images, np.repeat(images[-1:], piece.count - count, axis=0)])
        outputs = lane.runner(piece.range, images.shape).run(images)
        return [values[:count] for values in outputs]

    @contextlib.contextmanager
    def _lane(self) -> Iterator[_Lane]:
        lane = self._lanes.get()
        try:
            yield lane
        finally:
            self._lanes.put(lane)

    def _new_runner(self, profile: ShapeRange, shape: Shape, stream: Any) -> ShapeRunner:
        return ShapeRunner(
            self._loaded,
            profile.index,
            shape,
            input_name=self._input_name,
            output_names=self._outputs,
            stream=stream,
        )

    def _release(self) -> None:
        # Contexts before the engine they were made of.
        del self._lanes
        del self._loaded


class _Lane:
    """A stream and the runners on it, the least recently used first."""

    def __init__(self, new_runner: Callable[[ShapeRange, Shape, Any], ShapeRunner]) -> None:
        self._new_runner = new_runner
        self._stream: Any = None
        self._runners: collections.OrderedDict[tuple[int, Shape], ShapeRunner] = collections.OrderedDict()

    def runner(self, profile: ShapeRange, shape: Shape) -> ShapeRunner:
        """Return the runner for a shape, made where there is none yet."""
        import torch

        if self._stream is None:
            self._stream = torch.cuda.Stream()
        key = (profile.index, shape)
        if key not in self._runners:
            if len(self._runners) >= MAX_SHAPES:
                self._runners.popitem(last=False)
            self._runners[key] = self._new_runner(profile, shape, self._stream)
        self._runners.move_to_end(key)
        return self._runners[key]


def _check_torch(source: str) -> None:
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            f"{source} runs on PyTorch's CUDA memory, and PyTorch {torch.__version__} finds no CUDA device; install a "
            "build of PyTorch for CUDA, or run the ONNX file with --runtime onnxruntime."
        )


def _tensor_names(loaded: LoadedEngine, source: str) -> tuple[str, tuple[str, ...]]:
    """Return the name of the input and those of the outputs, logits and indices first as in the ONNX file."""
    engine, modes = loaded.engine, loaded.toolkit.module.TensorIOMode
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == modes.INPUT]
    if len(inputs) != 1:
        raise InputError(f"{source} takes {len(inputs)} inputs; accepted are image classifiers with one input.")
    outputs = [name for name in names if name not in inputs]
    # The order of an engine's tensors is its own; the first output is the logits for whoever knows no names.
    known = [name for name in (LOGITS, INDICES) if name in outputs]
    return inputs[0], (*known, *(name for name in outputs if name not in known))


def _input_spec(loaded: LoadedEngine, name: str, ranges: tuple[ShapeRange, ...]) -> InputSpec:
    """Return what the engine takes; batches are cut by the profiles, so none is fixed here."""
    dtype = torch_dtype_name(loaded.engine.get_tensor_dtype(name))
    if dtype not in ("float32", "float16"):
        raise InputError(f"the engine's input {name} takes {dtype}; accepted are float32 and float16 images.")
    fixed = [low if {low} == {side for each in ranges for side in (each.low[axis], each.high[axis])} else None
             for axis, low in enumerate(ranges[0].low)]  # fmt: skip
    return InputSpec(name, None, fixed[1], fixed[2], fixed[3], np.dtype(dtype))

"""TensorRT and TensorRT for RTX engines: plans with the document that export wrote beside them, on a CUDA device.

PyTorch owns the memory and the streams. Each lane of a session is a stream with runners of its own, one for each shape
(`ShapeRunner`), so as many threads run images at once as there are lanes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import InputError
from aps_deploy.runtimes.availability import RuntimeName
from aps_deploy.runtimes.inputs import InputSpec, check_images
from aps_deploy.runtimes.session import INDICES, LOGITS, BaseSession
from aps_deploy.runtimes.tensorrt.lanes import Lane, Lanes
from aps_deploy.runtimes.tensorrt.loading import LoadedEngine
from aps_deploy.runtimes.tensorrt.plan_file import check_fits, check_kind, read_plan_file
from aps_deploy.runtimes.tensorrt.refitting import weights_for
from aps_deploy.runtimes.tensorrt.shape_ranges import Piece, Shape, ShapeRange, pieces_of, ranges_of
from aps_deploy.runtimes.tensorrt.shape_runner import ShapeRunner, torch_dtype_name
from aps_deploy.runtimes.tensorrt.toolkit import TOOLKITS, EngineKind, Toolkit, load_toolkit

if TYPE_CHECKING:
    import torch

_KINDS: dict[str, EngineKind] = {info.runtime: info.kind for info in TOOLKITS.values()}


class TensorRtSession(BaseSession):
    """An engine in TensorRT or TensorRT for RTX, on the first CUDA device.

    Batches of any size run: larger ones than the engine takes are cut, and runs are filled up to a few numbers of
    images (`pieces_of`). Runs of a shape are replays of a CUDA graph from the second on where the engine allows it.

    Args:
        path: the plan; its document must stand beside it.
        runtime: ``tensorrt`` or ``tensorrt-rtx``; None takes the one that made the plan.
        num_contexts: threads that can run images at once; further ones wait.
        toolkit: a loaded toolkit; None loads the one that the runtime names.

    Raises:
        InputError: plan or document is missing, damaged or changed; the plan is of another toolkit, version or GPU, or
            its weights are in an ONNX file that is not beside it; the toolkit, PyTorch's CUDA support, driver or GPU is
            not there.
        ApsError: the toolkit is installed and cannot be loaded, or the weights cannot be put into the engine.
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
        weights = weights_for(plan)
        source = os.fspath(path)
        found = toolkit or load_toolkit(kind, wanted_by=source, builds=False)
        check_fits(plan, found)
        _check_torch(source)
        self._loaded = LoadedEngine(plan, found, weights)
        self._input_name, names = _tensor_names(self._loaded, source)
        self._outputs = names
        self._ranges = ranges_of(self._loaded.engine, self._input_name)
        self._lanes = Lanes([Lane(self._new_runner) for _ in range(num_contexts)])
        super().__init__(
            runtime=found.info.runtime,
            device="cuda",
            providers=(f"{found.info.title} {found.version}",),
            metadata=plan.metadata,
            input_spec=_input_spec(self._loaded, self._input_name, self._ranges),
            output_names=names,
            source=source,
        )

    def run_tensors(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the outputs for images that are on the GPU, without a way through the computer's memory.

        The run is queued behind what PyTorch's current stream holds, and what is queued there later waits for it, as
        with PyTorch's own operators.

        Args:
            images: (N, 3, H, W) float32 or float16 on the first CUDA device, normalised as the model's preprocessing
                says.

        Returns:
            The outputs under the names `run` gives them, ``logits`` as float32, on the GPU; they belong to the caller.

        Raises:
            InputError: the images have a dtype, shape or place the engine does not take.
            ApsError: the engine or CUDA failed, or the session is closed.
        """
        with self._open():
            _check_tensor(images, self.source)
            shape = tuple(images.shape)
            # An array of that shape that holds nothing: the checks are about shapes.
            check_images(np.broadcast_to(np.float32(0), shape), self.input_spec, self.metadata, self.source)
            values = self._execute_tensors(images)
        outputs = dict(zip(self.output_names, values, strict=True))
        outputs[LOGITS] = outputs[LOGITS].float()
        return outputs

    def _execute_tensors(self, images: torch.Tensor) -> list[torch.Tensor]:
        import torch

        with self._lanes.lend() as lane:
            parts = [
                self._run_tensor_piece(lane, piece, images[piece.rows])
                for piece in pieces_of(tuple(images.shape), self._ranges, self.source)
            ]
        return parts[0] if len(parts) == 1 else [torch.cat(each) for each in zip(*parts, strict=True)]

    @staticmethod
    def _run_tensor_piece(lane: Lane, piece: Piece, images: torch.Tensor) -> list[torch.Tensor]:
        import torch

        count = len(images)
        if piece.count > count:
            images = torch.cat([images, images[-1:].expand(piece.count - count, *images.shape[1:])])
        outputs = lane.runner(piece.range, tuple(images.shape)).run_tensors(images)
        return [values[:count] for values in outputs]

    def _execute(self, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        pieces = pieces_of(images.shape, self._ranges, self.source)
        with self._lanes.lend() as lane:
            parts = [self._run_piece(lane, piece, images[piece.rows]) for piece in pieces]
        return parts[0] if len(parts) == 1 else [np.concatenate(values) for values in zip(*parts, strict=True)]

    @staticmethod
    def _run_piece(lane: Lane, piece: Piece, images: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        count = len(images)
        if piece.count > count:
            # Repeating the last image is always valid input; what it yields is cut off again.
            images = np.concatenate([images, np.repeat(images[-1:], piece.count - count, axis=0)])
        outputs = lane.runner(piece.range, images.shape).run(images)
        return [values[:count] for values in outputs]

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
        # Contexts before the engine they were made of, and neither while the GPU works with them.
        self._lanes.close()
        del self._loaded


def _check_tensor(images: torch.Tensor, source: str) -> None:
    import torch

    if images.dtype not in (torch.float32, torch.float16):
        raise InputError(f"{source}: images have dtype {images.dtype}; accepted: torch.float32 and torch.float16.")
    _check_place(images, source)


def _check_place(images: torch.Tensor, source: str) -> None:
    if images.device.type != "cuda":
        raise InputError(
            f"{source}: images are on the device {images.device}; accepted: tensors on the GPU, or numpy arrays in run."
        )


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

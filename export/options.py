"""The options of `aps-deploy export`: those of the ONNX file, and those of an engine made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from aps_deploy.options import MAX_SIDE

Source = Annotated[
    str,
    Argument(
        metavar="CKPT",
        help="Checkpoint, or name of a packaged model; with --engine trt or trt-rtx also an ONNX file.",
        show_default=False,
    ),
]
Engine = Annotated[
    Literal["onnx", "trt", "trt-rtx"],
    Option("--engine", help="What to build: an ONNX file, or a plan of TensorRT or TensorRT for RTX."),
]

Polyphase = Annotated[
    Literal["where", "gather", "one-pass", "custom-op", "plugin"] | None,
    Option("--polyphase", help="How the file writes the selection [default: where; one-pass for an engine]."),
]
Precision = Annotated[
    Literal["fp32", "fp16", "bf16", "int8"],
    Option("--precision", help="Arithmetic of the network; selections and pooling stay float32."),
]
Calibration = Annotated[
    str | None,
    Option("--calibration", metavar="DIR", help="int8: folder of images, or cifar10 for the packaged ones."),
]
CalibrationMethod = Annotated[
    Literal["entropy", "minmax", "percentile"] | None,
    Option("--calibration-method", help="int8: how ranges are taken from the images [default: entropy]."),
]
ImageSize = Annotated[
    int | None,
    Option("--image-size", min=1, max=MAX_SIDE, metavar="N", help="Side in pixels [default: the checkpoint's]."),
]
CircularPad = Annotated[
    Literal["wrap", "concat"],
    Option("--circular-pad", help="Padding as one Pad, or as slices and concatenations for OpenVINO."),
]
KeepFp32 = Annotated[
    list[str] | None,
    Option("--keep-fp32", metavar="LAYER", help="Leave this layer, or pattern of layers, in float32; repeatable."),
]
Target = Annotated[
    Literal["current", "tensorrt-8"],
    Option("--target", help="tensorrt-8: an ONNX file for TensorRT 8.5 to 9 (Jetson): opset 17, 32-bit sums."),
]
DynamicSize = Annotated[bool, Option("--dynamic-size", help="Leave height and width of the images open.")]
Opset = Annotated[int | None, Option("--opset", min=20, metavar="N", help="ONNX opset [default: 20; 22 for bf16].")]

MinBatch = Annotated[int | None, Option("--min-batch", min=1, metavar="N", help="Fewest images [default: 1].")]
OptBatch = Annotated[
    int | None, Option("--opt-batch", min=1, metavar="N", help="Images it is made fastest for [default: 8].")
]
MaxBatch = Annotated[int | None, Option("--max-batch", min=1, metavar="N", help="Most images [default: 16].")]
Profiles = Annotated[
    list[str] | None,
    Option(
        "--profile",
        metavar="MIN:OPT:MAX[@MIN:OPT:MAX]",
        help="Range of images, and of sides in pixels for a file that takes several; repeatable.",
    ),
]
Tf32 = Annotated[bool, Option("--tf32", help="Let float32 products round their inputs to TF32.")]
WorkspaceMib = Annotated[int | None, Option("--workspace-mib", metavar="MIB", help="Most scratch memory of one layer.")]
OptimizationLevel = Annotated[
    int | None, Option("--optimization-level", metavar="0-5", help="How long the compiler searches.")
]
Independence = Annotated[
    bool | None,
    Option(
        "--distributive-independence/--no-distributive-independence",
        help="Compute every image of a batch by the same operations [default: where the builder can].",
    ),
]
VersionCompatible = Annotated[
    bool, Option("--version-compatible", help="Let newer versions of the toolkit load the plan.")
]
StripWeights = Annotated[
    bool, Option("--strip-weights", help="Leave the weights in the ONNX file, which is needed beside the plan.")
]
Refit = Annotated[
    Literal["none", "identical", "any"], Option("--refit", help="Whether weights of the plan can be replaced.")
]
HardwareCompatibility = Annotated[
    Literal["none", "ampere-plus", "same-compute-capability"],
    Option("--hardware-compatibility", help="trt: which other GPUs may run the plan."),
]
TimingCache = Annotated[
    Path | None, Option("--timing-cache", metavar="FILE", help="trt: file that keeps measured times between builds.")
]
ComputeCapabilities = Annotated[
    list[str] | None,
    Option(
        "--compute-capability",
        metavar="X.Y",
        help="trt-rtx: GPU to compile for, such as 8.6, or current; repeatable [default: all from 8.0].",
    ),
]
EngineCache = Annotated[
    Path | None, Option("--engine-cache", metavar="DIR", help="Folder of engines to look in first and to add to.")
]

OF_ONNX = (
    *("polyphase", "precision", "calibration", "calibration_method", "circular_padding", "keep_fp32", "image_size"),
    *("dynamic_size", "opset", "target"),
)
"""Parameters that describe the ONNX file: they fit a checkpoint, and no file that is there already."""
OF_LEGACY = ("circular_padding", "dynamic_size", "opset")
"""Parameters of the ONNX file that ``--target tensorrt-8`` decides."""
OF_EVERY_EXPORT = ("source", "output", "engine")
"""Parameters that fit every export; the others are an engine's."""

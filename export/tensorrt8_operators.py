"""Which standard operators the ONNX parser of TensorRT 8.5 has, and for which types.

From ``docs/operators.md`` of onnx/onnx-tensorrt, branch ``release/8.5-GA`` ("TensorRT 8.5 supports operators up to
Opset 17"). Left out is what no network of this project could have: recurrent layers, control flow, random numbers,
scatter and the like.
"""

from __future__ import annotations

from onnx import TensorProto

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_INT32 = frozenset({TensorProto.INT32})
_INT8 = frozenset({TensorProto.INT8})
_BOOL = frozenset({TensorProto.BOOL})

VALUE_TYPES: frozenset[int] = _FLOATS | _INT32 | _INT8 | _BOOL
"""Types of values that a network may compute. INT64 is read too, but turned into INT32: fit for shapes and axes."""

_OPERATORS: tuple[tuple[frozenset[int], str], ...] = (
    (_FLOATS, "BatchNormalization Ceil Einsum Erf Exp Floor InstanceNormalization Log LogSoftmax MatMul Pow"),
    (_FLOATS, "QuantizeLinear Reciprocal ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare"),
    (_FLOATS, "Resize Softmax Sqrt"),
    # The table names no INT32 for it. The importer hands every type on, and the layer behind it is one "across a
    # non-bool tensor" (NvInfer.h). Sums are kept below 2**24 all the same, so that adding in float32 is exact, too.
    (_FLOATS | _INT32, "ReduceSum"),
    (_FLOATS | _INT8, "Clip Conv ConvTranspose Elu Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish"),
    (_FLOATS | _INT8, "LeakyRelu MaxPool PRelu Relu Round Selu Sigmoid Softplus Softsign Tanh"),
    (_FLOATS | _INT32, "Abs Add DepthToSpace Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul"),
    (_FLOATS | _INT32, "Neg SpaceToDepth Sub Sum"),
    (_FLOATS | _INT8 | _INT32, "AveragePool Pad Sign"),
    (_FLOATS | _INT32 | _BOOL, "Expand Flatten Split Tile Where"),
    (VALUE_TYPES, "Cast Concat Constant Gather GatherElements GatherND Identity Reshape Slice Squeeze Transpose"),
    (VALUE_TYPES, "Unsqueeze"),
    (_INT8, "DequantizeLinear"),
    (_BOOL, "And Not Or Xor"),
)

TYPES_BY_OPERATOR: dict[str, frozenset[int]] = {name: types for types, names in _OPERATORS for name in names.split()}
"""Types of the values that an operator may read, by its name."""

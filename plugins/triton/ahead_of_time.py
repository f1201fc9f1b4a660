"""The kernels compiled ahead of time, to PTX, on a machine with or without a GPU.

    constants = {"NORM": "l2", "KEEPS_SMALLEST": False, "STRIDE": 2, "PARTS": 8}
    compiled = compile_kernel(scores.decide, "fp32", constants, 80)

A kernel's parameters are those of its Python function that are not constants, in that order: addresses of what is
read, sizes as int32, addresses of what is written. Triton appends addresses of scratch memory (two, in 3.6 to 3.8),
which these kernels never read; they are taken out of the PTX again, because whoever launches it (a plugin of TensorRT,
for one) passes the arguments of the function and no others. `CompiledKernel.num_scratch_pointers` counts those that
could not be.

The grid is the one that the kernel's docstring names, a block has 32 * num_warps threads. PTX for sm_80 runs on every
later GPU; from sm_90 on Triton writes the kind that only that one architecture runs (sm_90a).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aps_deploy.errors import ApsError

# How the kernels are always compiled. Nothing is fused that does not say so: a compiler that fuses a product and a sum
# here and not there rounds pixels otherwise than their neighbours. In the PTX every operation then names its rounding,
# so that the driver, which compiles it once more, may not fuse either.
OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": False}

# Types by the names of the parameters; those of maps are chosen.
_TYPES = {
    **{name: "i32" for name in ("channels", "pixels", "height", "width")},
    "energies": "*fp32",
    "maxima": "*fp32",
    "scores": "*i64",
    "index": "*i64",
    "filters": "*fp32",
}
_MAPS = ("x", "y")
MAP_TYPES = ("fp32", "fp16", "bf16")

_ENTRY = re.compile(r"(\.visible \.entry (\w+)\(\n)(.*?)(\n\))", re.DOTALL)


@dataclass(frozen=True)
class Parameter:
    """One argument of a launch: its name in the kernel's function, and ``i32`` or ``*`` and the type it points to."""

    name: str
    type: str


@dataclass(frozen=True)
class CompiledKernel:
    """What a launch needs.

    Attributes:
        name: of the entry point in the PTX.
        ptx: the code.
        parameters: the arguments, in order.
        num_scratch_pointers: addresses that must follow them (null will do); 0 unless the kernel reads scratch memory.
        shared_bytes: dynamic shared memory of a block.
        num_warps: a block has 32 times as many threads.
        compute_capability: what it was compiled for, 80 for 8.0.
    """

    name: str
    ptx: str
    parameters: tuple[Parameter, ...]
    num_scratch_pointers: int
    shared_bytes: int
    num_warps: int
    compute_capability: int


def parameters_of(kernel: Any, map_type: str) -> tuple[Parameter, ...]:
    """Return the parameters of a kernel for maps of ``map_type``, one of `MAP_TYPES`; filters are fp32 always."""
    types = _TYPES | {name: f"*{map_type}" for name in _MAPS}
    names = [parameter.name for parameter in kernel.params if not parameter.is_constexpr]
    return tuple(Parameter(name, types[name]) for name in names)


def compile_kernel(
    kernel: Any, map_type: str, constants: Mapping[str, Any], compute_capability: int, ptx_version: int | None = None
) -> CompiledKernel:
    """Return ``kernel`` compiled for maps of ``map_type``.

    Args:
        kernel: a function of `kernels`.
        map_type: one of `MAP_TYPES`.
        constants: a value for each of its ``tl.constexpr`` parameters.
        compute_capability: 80, 90, 100, 120...
        ptx_version: of the PTX, 80 for 8.0, so that drivers from then on take it; by default the newest that Triton's
            assembler knows.

    Raises:
        ApsError: a constant is missing or unknown, or the interpreter of Triton is on, which compiles nothing.
    """
    from triton import compile as compile_source
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.interpreter import InterpretedFunction

    if isinstance(kernel, InterpretedFunction):
        raise ApsError("with TRITON_INTERPRET set kernels are interpreted and cannot be compiled; unset it.")
    wanted = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    if wanted != set(constants):
        raise ApsError(f"the kernel {kernel.__name__} takes the constants {sorted(wanted)}, not {sorted(constants)}.")
    parameters = parameters_of(kernel, map_type)
    signature = {parameter.name: parameter.type for parameter in parameters} | dict.fromkeys(wanted, "constexpr")
    ordered = {name: signature[name] for name in kernel.arg_names}
    options = OPTIONS | ({} if ptx_version is None else {"ptx_version": ptx_version})
    with _without_line_numbers():
        source = ASTSource(kernel, ordered, dict(constants), {})
        compiled = compile_source(source, target=GPUTarget("cuda", compute_capability, 32), options=options)
    ptx, num_scratch_pointers = without_unread_parameters(compiled.asm["ptx"], len(parameters))
    return CompiledKernel(
        name=compiled.metadata.name,
        ptx=ptx,
        parameters=parameters,
        num_scratch_pointers=num_scratch_pointers,
        shared_bytes=compiled.metadata.shared,
        num_warps=compiled.metadata.num_warps,
        compute_capability=compute_capability,
    )


def without_unread_parameters(ptx: str, num_kept: int) -> tuple[str, int]:
    """Return ``ptx`` without what its entry point takes behind ``num_kept`` parameters and no instruction reads.

    The second value is how many parameters remain behind the first ``num_kept``.
    """
    entry = _ENTRY.search(ptx)
    assert entry is not None
    declared = [line.rstrip(",") for line in entry[3].splitlines()]
    body = ptx[entry.end() :]
    while len(declared) > num_kept and not re.search(rf"\b{declared[-1].split()[-1]}\b", body):
        declared.pop()
    return ptx[: entry.start(3)] + ",\n".join(declared) + ptx[entry.end(3) :], len(declared) - num_kept


def assemble(compiled: CompiledKernel) -> bytes:
    """Return the machine code (cubin) of a compiled kernel, by the assembler that comes with Triton.

    Raises:
        ApsError: it refuses the PTX.
    """
    import triton

    capability = compiled.compute_capability
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    assembler = folder / ("ptxas-blackwell" if capability >= 100 else "ptxas")
    target = re.search(r"\.target (\w+)", compiled.ptx)
    assert target is not None
    with tempfile.TemporaryDirectory() as temporary:
        written, made = Path(temporary, "kernel.ptx"), Path(temporary, "kernel.cubin")
        written.write_text(compiled.ptx, encoding="utf-8")
        command = [str(assembler), "--fmad=false", f"--gpu-name={target[1]}", str(written), "-o", str(made)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise ApsError(f"ptxas refuses the kernel {compiled.name}: {result.stderr.strip()}.")
        return made.read_bytes()


@contextlib.contextmanager
def _without_line_numbers() -> Iterator[None]:
    # They would put the folders of this machine into the PTX, and that into engines.
    name = "TRITON_DISABLE_LINE_INFO"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

"""The engine of the demonstration: the trained network's ONNX file, compiled where a toolkit is installed that can."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from aps_deploy.errors import ApsError, InputError
from aps_deploy.export.engines import EngineSettings, export_engine
from aps_deploy.runtimes import open_session
from aps_deploy.runtimes.availability import RuntimeName
from aps_deploy.runtimes.tensorrt.toolkit import EngineKind, check_toolkit

# The first needs no GPU to compile, so the plan is there for who looks even where nothing runs it.
_KINDS: tuple[EngineKind, ...] = ("trt-rtx", "trt")


@dataclasses.dataclass(frozen=True)
class DemoEngine:
    """A plan with its document beside it.

    Attributes:
        path: the plan.
        runtime: what runs it on this machine; None where nothing does.
    """

    path: Path
    runtime: RuntimeName | None


def compile_engine(source: Path, target: Path, report: Callable[[str], None]) -> DemoEngine | None:
    """Return the engine compiled from an ONNX file; None where no toolkit of this machine compiles.

    Args:
        source: the ONNX file.
        target: the plan to write.
        report: told in one sentence what is being done, and why something is not.

    Raises:
        ApsError: a toolkit is there and its build fails.
    """
    lacks = []
    for kind in _KINDS:
        try:
            info = check_toolkit(kind)
        except InputError as error:
            lacks.append(str(error))
            continue
        report(f"compiling {source.name} into an engine of {info.title}")
        found = export_engine(source, target, EngineSettings(kind)).document["engine"]
        read = found["precision"]
        report(
            f"{target.name}: {found['num_kernels']} kernels, {read['precision']} as read from the {read['read_from']}"
        )
        reason = _why_not_here(target, info.runtime)
        if reason is not None:
            report(f"the engine is not run here: {reason}")
        return DemoEngine(target, info.runtime if reason is None else None)
    report(f"no engine is compiled: {lacks[0]}")
    return None


def _why_not_here(plan: Path, runtime: RuntimeName) -> str | None:
    try:
        open_session(plan, runtime=runtime, device="cuda").close()
    except ApsError as error:
        return str(error)
    return None

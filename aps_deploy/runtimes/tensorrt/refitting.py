"""Weights for a plan that was exported without: found by their hash beside it, and put into the loaded engine.

``export --strip-weights`` leaves the weights in the ONNX file, so that plans for several GPUs or batches share one copy
of them. The plan's document holds the hash of that file, and nothing else is taken for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.tensorrt.log import ToolkitLog
from aps_deploy.runtimes.tensorrt.plan_file import PlanFile, onnx_beside
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit


def weights_for(plan: PlanFile) -> bytes | None:
    """Return the ONNX file with the weights that a plan lacks; None where it has its own.

    Raises:
        InputError: no ONNX file beside the plan has the hash that its document gives.
    """
    if plan.has_weights:
        return None
    source = onnx_beside(plan)
    content = None if source is None else source.read_bytes()
    if content is None or hashlib.sha256(content).hexdigest() != plan.onnx_sha256:
        named = plan.onnx_file or "the ONNX file it was compiled from"
        raise InputError(
            f"{plan.path} was exported with --strip-weights, and no ONNX file beside it has the hash of {named}, which "
            f"holds its weights (SHA-256 {str(plan.onnx_sha256)[:16]}...); copy that file there."
        )
    return content


def refit(engine: Any, weights: bytes, toolkit: Toolkit, logger: Any, log: ToolkitLog, plan: PlanFile) -> None:
    """Put the weights of an ONNX file into a loaded engine.

    Args:
        engine: of a plan without weights.
        weights: the bytes of the ONNX file.
        toolkit: of `load_toolkit`.
        logger: the toolkit's.
        log: what the logger writes into.
        plan: the file, for messages.

    Raises:
        ApsError: the toolkit does not take the weights, or misses some.
    """
    module = toolkit.module
    try:
        refitter = module.Refitter(engine, logger)
    except (TypeError, RuntimeError) as error:  # the bindings get a null pointer of an engine that takes no weights
        raise _failed(plan, "the engine takes none") from error
    parser = module.OnnxParserRefitter(refitter, logger)
    is_parsed = parser.refit_from_bytes(weights)
    missing = list(refitter.get_missing_weights())
    if not is_parsed or missing or not refitter.refit_cuda_engine():
        raise _failed(plan, next(_reasons(parser, missing, log), "it gave no reason"))


def _reasons(parser: Any, missing: list[str], log: ToolkitLog) -> Iterator[str]:
    for index in range(parser.num_errors):
        yield " ".join(str(parser.get_error(index).desc()).split())
    if missing:
        yield f"{len(missing)} are missing, {missing[0] or 'one without a name'} among them"
    for text in reversed(log.errors):
        yield " ".join(text.split())


def _failed(plan: PlanFile, reason: str) -> ApsError:
    source = onnx_beside(plan)
    named = "its ONNX file" if source is None else source.name
    return ApsError(
        f"the weights of {named} could not be put into {plan.path} ({reason[:200].rstrip('.')}); export it again "
        "without --strip-weights."
    )

"""Certificates without a network: real measurements of functions whose shift behaviour is known by construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.preprocessing import Preprocessing
from aps_deploy.runtimes import InputSpec, ModelMetadata
from aps_deploy.verification.certificate import Certificate, Check
from aps_deploy.verification.digests import digest_images
from aps_deploy.verification.gates import resolve_gates
from aps_deploy.verification.layer_precision import LayerPrecision
from aps_deploy.verification.ledger import Ledger
from aps_deploy.verification.localisation.locating import nowhere
from aps_deploy.verification.references.compared import ComparedTrace
from aps_deploy.verification.selection import compare_selections
from aps_deploy.verification.shifts import shift_set
from aps_deploy.verification.steps.batch import check_batch
from aps_deploy.verification.steps.consistency import check_consistency
from aps_deploy.verification.steps.crop_shifts import check_crop_shifts
from aps_deploy.verification.steps.declaration import check_precision
from aps_deploy.verification.steps.parity import check_parity
from aps_deploy.verification.steps.run import Run
from aps_deploy.verification.verifying import certificate_of
from tests.verification.fakes import FakeRunner, Images, corner, integer_images, invariant

HEIGHT, WIDTH = 8, 12
LAYERS = ("layer2.0", "layer3.0")
CLASSES = ("cat", "dog", "emu")
METADATA = ModelMetadata(
    architecture="resnet20_aps3",
    arguments={"padding": "circular", "pool_only": False, "selection": "exact", "criterion": "l2", "odd_maps": "error"},
    class_names=CLASSES,
    # The values 0..15 of `integer_images` are the whole range of brightness.
    preprocessing=Preprocessing(8, None, (0.0, 0.0, 0.0), (1 / 15, 1 / 15, 1 / 15)),
    selection="exact",
    criterion="l2",
    selection_layers=LAYERS,
    polyphase="where",
    precision="fp32",
    checkpoint_sha256="c" * 64,
)
Function = Callable[[Images], npt.NDArray[Any]]


class FakeSession(FakeRunner):
    """A session of ONNX Runtime, as far as a verification looks at it."""

    runtime, device, providers, source = "onnxruntime", "cpu", ("CPUExecutionProvider",), "net.onnx"
    metadata = METADATA
    input_spec = InputSpec()


class FakeReference(FakeRunner):
    """A reference that computes another function of the images."""

    name, sha256, architecture, family = "net.safetensors", "c" * 64, "resnet20_aps3", "cifar"
    class_names, preprocessing, promised = CLASSES, METADATA.preprocessing, METADATA
    kind, can_run = "checkpoint", True


def measured_run(
    function: Function,
    *,
    reference: Function = invariant,
    shifts: str | int = "group",
    count: int = 20,
    gates: dict[str, float | None] | None = None,
    tied: npt.NDArray[np.bool_] | None = None,
) -> Run:
    """Return a run whose steps have measured ``function`` in the place of a file."""
    images = integer_images(count, HEIGHT, WIDTH)
    run = Run(
        file="net.onnx",
        session=FakeSession(function),  # type: ignore[arg-type]
        graph=None,
        layers=(LayerPrecision("conv1", "Conv", "fp32", False, "its operands are FLOAT"),),
        asked_precision=None,
        reference=FakeReference(reference),  # type: ignore[arg-type]
        images=images,
        labels=np.arange(count) % 3,
        shifts=shift_set(shifts, height=HEIGHT, width=WIDTH, size_divisor=4),
        ledger=Ledger(resolve_gates("fp32", "onnxruntime", "cpu", gates)),
        batch_size=7,
        seed=0,
        progress=None,
    )
    run.details["declared_differently"] = []
    run.details["static"] = []
    check_precision(run)
    run.ledger.record("static", "static_findings", 0)
    _select(run)
    logits = function(images)
    near = logits.copy()
    near[0, 0] = np.nextafter(near[0, 0], np.float32(np.inf))
    every = np.ones(count, bool)
    run.own_trace = SimpleNamespace(logits=near)  # type: ignore[assignment]
    check_parity(run, logits, ComparedTrace(SimpleNamespace(logits=near), every, every, "forced"))  # type: ignore[arg-type]
    run.details["localisation"] = nowhere("the network is a function").to_dict()
    check_consistency(run, np.zeros(count, bool) if tied is None else tied)
    check_crop_shifts(run)
    check_batch(run)
    return run


def _select(run: Run) -> None:
    generator = np.random.default_rng(1)
    scores = generator.uniform(0.9, 1.0, (len(run.images), len(LAYERS), 4))
    scores[0, 0] = 1.0  # a tie
    ranked = np.sort(scores, axis=-1)
    chosen = scores.argmax(axis=-1)
    measured = tuple(scores[:, layer] * (1 + 1e-7 * generator.standard_normal(4)) for layer in range(len(LAYERS)))
    margins = (ranked[..., -1] - ranked[..., -2]) / ranked[..., -1]
    agreement = compare_selections(LAYERS, chosen, chosen, scores, margins, file_scores=measured, cap=1e-4)
    run.details["selection"] = {**agreement.to_dict(), "scores": "measured in onnxruntime"}
    run.ledger.record("selection", "unexplained_selections", agreement.total("unexplained"))


def make_certificate(folder: Path, function: Function = corner, **arguments: Any) -> Certificate:
    """Return the certificate of a file ``net.onnx`` that is written into ``folder``; see `measured_run`."""
    file = folder / "net.onnx"
    file.write_bytes(b"the file")
    gates = arguments.get("gates") or {}
    run = measured_run(function, **arguments)
    certificate = certificate_of(dataclasses.replace(run, file=file), dict(gates), digest_images(run.images))
    return dataclasses.replace(certificate, command="aps-deploy verify net.onnx --reference net.safetensors")


def bare_certificate(*checks: Check, **changes: Any) -> Certificate:
    """Return a certificate with these checks and nothing behind them."""
    certificate = Certificate(
        file={"name": "net.onnx", "sha256": "aa", "architecture": None, "precision": "fp32", "precision_found": "fp32",
              "polyphase": None,
              "checkpoint_sha256": None, "declared": None},
        reference={"name": "net.safetensors", "sha256": "bb", "architecture": "resnet20", "promised": {},
                   "is_named_by_file": False},
        checks=checks,
        counts={"images": 4},
        environment={"runtime": "onnxruntime", "device": "cpu", "providers": [], "platform": "", "versions": {}},
        data={"num_images": 4, "height": 16, "width": 16, "sha256": "", "labelled": False, "seed": 0, "batch_size": 4},
        shift_set={"name": "all", "offsets": [[0, 1]], "height": 16, "width": 16, "population": 1, "seed": None,
                   "step": 1, "description": "15 shifts"},
        overrides={},
        details={},
        created="2026-01-01T00:00:00+00:00",
        limits={check.name: check.tolerance for check in checks},
    )  # fmt: skip
    return dataclasses.replace(certificate, **changes)

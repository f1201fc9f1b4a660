"""Our networks compute what the authors' code computes, from the authors' own weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from aps_deploy.models.detect import build_detected
from aps_deploy.models.layouts import canonical_weights
from aps_deploy.models.weights import load_weights
from tests.models import golden

# Another order of the same float32 operations; relative to the largest logit.
TOLERANCE = 2e-5


@pytest.mark.parametrize("selection", ["exact", "float"])
@pytest.mark.parametrize("record", golden.RECORDS, ids=lambda record: record["name"])
def test_reproduces_the_authors_outputs(record: dict[str, Any], selection: str) -> None:
    state = golden.state_dict(record)
    # LPF and APS networks of the CIFAR code have the same keys, so those two need their name.
    prefix = (
        "cifar_" if record["family"] == "cifar" and "20" not in record["arch"] and "56" not in record["arch"] else ""
    )
    size = record["filter_size"] if "_" in record["arch"] else ""
    name = f"{prefix}{record['arch']}{size}"
    if name == "resnet18_lpf1":
        # The authors' lpf1 keeps a trivial blur, and its keys tell so.
        assert record["keys"]["layer2.0.conv2.0.filt"][-1] == 1
    model, _ = build_detected(canonical_weights(state), name=name, criterion=record["criterion"], selection=selection)
    assert model.options.padding == "circular"
    assert model.options.pool_only == record["pool_only"]
    load_weights(model, state)
    model.eval()
    x = golden.images(record)
    for images, shifted, indices in (
        (x, False, record["indices"]),
        (torch.roll(x, tuple(record["shift"]), (2, 3)), True, record["indices_shifted"]),
    ):
        with torch.inference_mode():
            logits, chosen = model.forward_with_selection(images)
        expected = golden.logits(record, shifted=shifted)
        error = np.abs(logits.numpy() - expected).max() / np.abs(expected).max()
        assert error <= TOLERANCE
        assert chosen.T.tolist() == indices


def test_every_record_is_used() -> None:
    assert len(golden.RECORDS) == 14
    assert sum(len(record["indices"]) for record in golden.RECORDS) == 28

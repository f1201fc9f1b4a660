"""How the file fares when a window moves over a larger picture."""

from __future__ import annotations

import numpy as np

from aps_deploy.verification.crop_shifts import measure_crop_shifts, padded_scene, spread_positions
from aps_deploy.verification.steps.run import Run


def check_crop_shifts(run: Run) -> None:
    """Move windows over a few images, which changes what is seen: for the record, not for the verdict."""
    scene = run.scene or padded_scene(run.images[np.array(spread_positions(len(run.images)))])
    reference = run.reference if run.reference.can_run else None
    found = measure_crop_shifts(run.session, reference, scene, batch_size=run.batch_size, progress=run.progress)
    run.details["crop_shifts"] = found.to_dict()
    run.ledger.record("consistency", "crop_consistency", found.file_top1_percent)

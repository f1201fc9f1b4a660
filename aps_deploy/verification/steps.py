"""The steps of a verification, each of which measures something and enters it under its gate."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from aps_deploy.errors import ApsError, InputError
from aps_deploy.runtimes.session import INDICES, LOGITS
from aps_deploy.verification.authors import CIFAR_PROTOCOL, IMAGENET_PROTOCOL, authors_consistency
from aps_deploy.verification.batch import check_batches
from aps_deploy.verification.comparing import Logits, Progress, finite_or_none
from aps_deploy.verification.consistency import Consistency, measure_consistency
from aps_deploy.verification.crop_shifts import Scene, measure_crop_shifts, padded_scene, spread_positions
from aps_deploy.verification.declaration import (
    declared_differently,
    kept_declared_differently,
    precision_declared_differently,
    unaudited_layers,
)
from aps_deploy.verification.instrument import measure_scores
from aps_deploy.verification.layer_precision import LayerPrecision, faults_against, file_precision
from aps_deploy.verification.ledger import Ledger
from aps_deploy.verification.parity import compare_logits, percent_right
from aps_deploy.verification.reference import Reference, ReferenceTrace, load_reference
from aps_deploy.verification.reference_trace import ComparedTrace, compared_trace
from aps_deploy.verification.references import NUM_COMPONENTS, AnyReference, family_of
from aps_deploy.verification.selection import SelectionAgreement, compare_selections, tied_images
from aps_deploy.verification.shifts import ShiftSet
from aps_deploy.verification.worst_case import WorstCase, make_worst_case

if TYPE_CHECKING:
    import onnx

    from aps_deploy.runtimes import ModelMetadata, Session
    from aps_deploy.runtimes.batching import ImageSource

_LOGGER = logging.getLogger(__name__)

Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]

_NO_REFERENCE = "there is no reference to compare with"
_PARITY_GATES = ("parity_images", "parity_excess", "parity_mean_abs", "parity_cosine", "clear_top1_changes")
LOCATED_GATES = ("unexplained_selections", *_PARITY_GATES[1:], "accuracy_drop")
"""Gates whose failure asks for the layer that makes the error."""

LOCATED_IMAGES = 8
"""Images it is looked for on, the worst first: every map of every layer is in memory then."""

REFERENCE_IMAGES = 16
REFERENCE_PAIRS = 16_384
"""The reference is tried under shifts too, to be seen beside the file: on a few images, or not at all where one image
under all shifts is more than this. PyTorch on a CPU would otherwise take most of the time."""


@dataclasses.dataclass
class Run:
    """One verification under way; every step adds checks to the ledger and measurements to the details.

    ``graph`` is the file's, inlined, and ``layers`` are its layers; a checkpoint has None and none. ``scene`` has a few
    of the images with their surroundings, or None where nothing is known of those.
    """

    session: Session
    graph: onnx.ModelProto | None
    layers: tuple[LayerPrecision, ...]
    asked_precision: str | None
    reference: AnyReference
    images: ImageSource
    labels: Labels | None
    shifts: ShiftSet
    ledger: Ledger
    batch_size: int
    seed: int
    progress: Progress | None
    scene: Scene | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    worst_case: WorstCase | None = None
    own_trace: ReferenceTrace | None = None

    @property
    def promised(self) -> ModelMetadata:
        """What the file must keep: what the reference promises or, where it says nothing, what the file declares."""
        return self.reference.promised if self.reference.promised.is_known else self.session.metadata

    @functools.cached_property
    def located(self) -> ModelMetadata:
        """What the file says of itself, with its selections' values by the names that they have in the graph."""
        from aps_deploy.verification.locating import located_selections

        return self.session.metadata if self.graph is None else located_selections(self.graph, self.session.metadata)

    def check_file(self, file: str | os.PathLike[str], byte_faults: tuple[str, ...]) -> None:
        """Run every step on the open session."""
        self.ledger.record("file", "changed_bytes", len(byte_faults), fault="; ".join(byte_faults))
        graph = self.graph
        present = self._present(graph)
        self._declaration(file, present)
        self._precision()
        with _timed("the file, unshifted"):
            logits, indices = self._outputs(present)
        if graph is not None:
            self._static(graph)
        if logits is None:
            if self.ledger.gates["missing_outputs"].limit is None:
                raise ApsError("the file has no output logits, so nothing of it can be measured; export it again.")
            return
        usable = self._usable(indices)
        compared = self._compared(usable)
        agreement = None
        if usable is not None and compared is not None:
            with _timed("scores of the file's selections"):
                agreement = self._selection(file, graph, usable, compared)
        if agreement is None:
            self._no_selection(indices)
        self._parity(logits, compared)
        self._locate(usable)
        tied = np.zeros(len(self.images), bool)
        if agreement is not None:
            tied = agreement.tied_images
        elif compared is not None:
            tied = tied_images(compared.trace.margins)
        self._consistency(tied, logits)
        with _timed("crop windows"):
            self._crop_shifts()
        with _timed("batches"):
            self._batches()

    def _compared(self, indices: Indices | None) -> ComparedTrace | None:
        """Return the reference's answers for all images; None where there is no reference."""
        if self.reference.kind == "none":
            return None
        with _timed("the reference"):
            own = self.reference.trace(self.images, batch_size=self.batch_size, progress=self.progress)
            self.own_trace = own
            return compared_trace(
                self.reference, self.images, own, indices, batch_size=self.batch_size, progress=self.progress
            )

    def _present(self, graph: onnx.ModelProto | None) -> set[str]:
        # A session lends the name "logits" to whatever output comes first; the graph itself does not.
        return set(self.session.output_names) if graph is None else {value.name for value in graph.graph.output}

    def _declaration(self, file: str | os.PathLike[str], present: set[str]) -> None:
        """Compare what the file says of itself with the reference, and ask it for evidence of every selection."""
        declared, promised = self.session.metadata, self.promised
        others: tuple[str, ...] = ()
        if declared.is_known:
            others = declared_differently(declared, promised)
            if self.graph is not None:
                others += precision_declared_differently(file, declared, file_precision(self.layers))
                others += kept_declared_differently(file, declared, self.layers)
            self.details["declared_differently"] = list(others)
        if not declared.is_known:
            self.ledger.not_applicable("file", "declared_differently", "the file declares nothing")
        elif others or (self.reference.kind != "none" and self.reference.promised.is_known):
            self.ledger.record("file", "declared_differently", len(others), fault="; ".join(others))
        else:
            reason = "no reference says what the file must be; the graph bears out what it declares of its precision"
            self.ledger.not_applicable("file", "declared_differently", reason)
        if not promised.num_selections:
            reason = "the network selects nothing" if promised.is_known else "nothing says that the network selects"
            self.ledger.not_applicable("file", "unaudited_layers", reason)
            return
        missing, lacks = unaudited_layers(declared, promised, present, is_graph=self.graph is not None)
        fault = f"the file is not auditable: {lacks}; the gate unaudited_layers=off measures it as far as that goes"
        self.ledger.record("file", "unaudited_layers", missing, fault=fault)

    def _precision(self) -> None:
        """Hold the precision of every layer against the one asked for, or else the one declared."""
        declared, asked = self.session.metadata.precision, self.asked_precision
        found = file_precision(self.layers)
        self.details["precision"] = {
            "declared": declared,
            "asked": asked,
            "found": found,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
        }
        wanted = asked or declared
        if wanted is None:
            reason = f"the file declares no precision and none was asked for; it computes in {found}"
            self.ledger.not_applicable("file", "other_precision_layers", reason)
            return
        if self.graph is None:
            # A checkpoint has no graph: PyTorch runs all of it in float32.
            others, words = int(wanted != "fp32"), "a checkpoint runs in fp32"
        else:
            others, words = faults_against(self.layers, wanted)
        fault = f"{wanted} is {'asked for' if asked else 'declared'}: {words}"
        self.ledger.record("file", "other_precision_layers", others, fault=fault)

    def _static(self, graph: onnx.ModelProto) -> None:
        from aps_deploy.verification.static_check import check_graph

        findings = check_graph(graph, self.located, self.promised)
        self.details["static"] = [dataclasses.asdict(finding) for finding in findings]
        if not self.session.metadata.is_known:
            reason = f"the file declares nothing to check it by; findings listed in the details: {len(findings)}"
            self.ledger.not_applicable("static", "static_findings", reason)
            return
        shown = [f"{finding.rule} at {finding.node}: {finding.message}" for finding in findings[:3]]
        more = [f"and {len(findings) - 3} more"] if len(findings) > 3 else []
        self.ledger.record("static", "static_findings", len(findings), fault="; ".join(shown + more))

    def _outputs(self, present: set[str]) -> tuple[npt.NDArray[Any] | None, Indices | None]:
        """Return the file's logits and indices for all images; None for what it does not have."""
        from aps_deploy.runtimes import iterate_outputs

        metadata = self.session.metadata
        expected = ["logits"] if metadata.is_known else []
        if metadata.num_selections:
            expected.append("polyphase_indices")
        missing = [name for name in expected if name not in present]
        fault = f"the file has no output {', '.join(missing)}"
        self.ledger.record("file", "missing_outputs", len(missing), fault=fault)
        if "logits" in missing:
            return None, None
        parts: dict[str, list[npt.NDArray[Any]]] = {}
        for rows, outputs in iterate_outputs(self.session, self.images, batch_size=self.batch_size):
            _check_shape(outputs[LOGITS], rows.stop - rows.start, self.session.source)
            # A file of another tool may have feature maps among its outputs: of all images they would not fit.
            for name in (LOGITS, INDICES):
                if name in outputs:
                    parts.setdefault(name, []).append(outputs[name])
            if self.progress is not None:
                self.progress("the file, unshifted", rows.stop, len(self.images))
        kept = {name: np.concatenate(values) for name, values in parts.items()}
        logits = kept[LOGITS]
        num_classes = self.reference.num_classes
        if num_classes not in (None, logits.shape[1]):
            raise InputError(
                f"{self.session.source} gives outputs of shape {logits.shape} for {len(self.images)} images, but the "
                f"reference {self.reference.name} has {num_classes} classes; give the checkpoint it was made from."
            )
        bad_rows = int((~np.isfinite(logits).all(axis=1)).sum())
        self.ledger.record("file", "non_finite_rows", bad_rows)
        return logits, kept.get(INDICES)

    def _usable(self, indices: Indices | None) -> Indices | None:
        """Return the indices if they can be held against the reference's; count what is out of range."""
        num_layers = len(self.reference.selection_layers)
        if self.reference.kind == "none" and indices is not None and indices.ndim == 2:
            num_layers = indices.shape[1]
        if indices is None or num_layers == 0:
            return None
        if indices.shape != (len(self.images), num_layers):
            raise InputError(
                f"{self.session.source} reports selections of shape {indices.shape} for {len(self.images)} images, but "
                f"the reference selects in {num_layers} layers; give the checkpoint it was made from."
            )
        if not np.issubdtype(indices.dtype, np.integer):
            raise InputError(f"{self.session.source} reports selections as {indices.dtype}; export the file again.")
        outside = int(((indices < 0) | (indices >= NUM_COMPONENTS)).sum())
        self.ledger.record("selection", "index_range", outside)
        return None if outside else indices.astype(np.int64)

    def _selection(
        self, file: str | os.PathLike[str], graph: onnx.ModelProto | None, indices: Indices, compared: ComparedTrace
    ) -> SelectionAgreement:
        scores, note = self._file_scores(file, graph, indices)
        trace = compared.trace
        if np.isposinf(trace.margins).all():
            scores, note = None, "the reference tells no margins, so nothing explains a disagreement"
        agreement = compare_selections(
            self.reference.selection_layers,
            indices,
            trace.chosen,
            trace.scores,
            trace.margins,
            file_scores=scores,
            cap=self.ledger.limit("margin_cap"),
            judged=compared.judged,
        )
        self.details["selection"] = {**agreement.to_dict(), "scores": note}
        for name in ("agreed", "explained", "unexplained", "tied", "tied_in_file", "not_judged", "at_risk"):
            self.counts[name] = agreement.total(name)
        self.counts["tied_images"] = int(agreement.tied_images.sum())
        worst = [layer.layer for layer in agreement.layers if layer.unexplained]
        fault = f"layers {', '.join(worst)}" + ("" if scores is not None else f"; {note}")
        self.ledger.record("selection", "unexplained_selections", agreement.total("unexplained"), fault=fault)
        if scores is None:
            self.ledger.not_applicable("selection", "at_risk_selections", note)
        else:
            self.ledger.record("selection", "at_risk_selections", agreement.total("at_risk"))
        return agreement

    def _file_scores(
        self, file: str | os.PathLike[str], graph: onnx.ModelProto | None, indices: Indices
    ) -> tuple[tuple[npt.NDArray[np.float64], ...] | None, str]:
        """Return the file's own scores per layer, or None and why they cannot be had."""
        metadata, session = self.located, self.session
        if graph is None:
            other = load_reference(file)
            other.model.to(session.device)
            traced = other.trace(self.images, batch_size=self.batch_size).scores
            return tuple(traced[:, layer] for layer in range(traced.shape[1])), "measured in PyTorch"
        if len(metadata.selections) != len(self.reference.selection_layers):
            return None, "the file's metadata names no score values, so nothing explains a disagreement"
        try:
            measured = measure_scores(
                graph,
                metadata,
                self.images,
                runtime=session.runtime,
                device=session.device,
                batch_size=self.batch_size,
            )
        except ApsError as error:
            return None, f"the scores cannot be measured ({error}), so nothing explains a disagreement"
        if any(scores.shape != (len(self.images), NUM_COMPONENTS) for scores in measured.scores):
            return None, "the values that the metadata names are no scores, so nothing explains a disagreement"
        if not np.array_equal(measured.indices, indices):
            return None, "the copy that outputs its scores selects otherwise than the file, so nothing is explained"
        return measured.scores, f"measured in {session.runtime} on a copy of the graph"

    def _no_selection(self, indices: Indices | None) -> None:
        if self.reference.kind == "none":
            reason = _NO_REFERENCE
        elif not self.reference.selection_layers:
            selects = self.promised.num_selections > 0
            reason = "the reference reports no selections" if selects else "the network selects nothing"
        elif indices is None:
            reason = "the file does not report its selections"
        else:
            reason = "the file's indices are out of range"
        self.details["selection"] = None
        for name in ("unexplained_selections", "at_risk_selections"):
            self.ledger.not_applicable("selection", name, reason)

    def _parity(self, logits: Logits, compared: ComparedTrace | None) -> None:
        ledger = self.ledger
        if compared is None:
            for name in (*_PARITY_GATES, "accuracy_drop"):
                ledger.not_applicable("parity", name, _NO_REFERENCE)
            self._accuracy_floor(logits)
            return
        if logits.shape != compared.trace.logits.shape:
            raise InputError(
                f"{self.session.source} has {logits.shape[1]} classes, but the reference {self.reference.name} has "
                f"{compared.trace.logits.shape[1]}; give the model it was made from."
            )
        rows = np.flatnonzero(compared.comparable)
        left_out = len(logits) - len(rows)
        self.counts["parity_images"] = len(rows)
        fault = f"{left_out} images are not compared: the file and the reference chose other components"
        ledger.record("parity", "parity_images", 100 * len(rows) / len(logits), fault=fault if left_out else "")
        if not len(rows):
            for name in _PARITY_GATES[1:]:
                ledger.not_applicable("parity", name, "no image could be compared, which parity_images counts")
            self._accuracy_drop(logits, compared.trace.logits)
            self._accuracy_floor(logits)
            return
        parity = compare_logits(
            logits[rows],
            compared.trace.logits[rows],
            atol=ledger.limit("parity_atol"),
            rtol=ledger.limit("parity_rtol"),
        )
        parity = dataclasses.replace(
            parity,
            worst_image=int(rows[parity.worst_image]),
            file_accuracy_percent=percent_right(logits, self.labels),
            reference_accuracy_percent=percent_right(compared.trace.logits, self.labels),
        )
        self.details["parity"] = {**parity.to_dict(), "choices": compared.choices, "left_out": left_out}
        where = f"worst at image {parity.worst_image}, max abs {parity.max_abs:.3g}"
        ledger.record("parity", "parity_excess", parity.worst_excess, fault=where)
        ledger.record("parity", "parity_mean_abs", parity.mean_abs)
        ledger.record("parity", "parity_cosine", parity.cosine)
        ledger.record("parity", "clear_top1_changes", parity.clear_disagreements)
        self._accuracy_drop(logits, compared.trace.logits)
        self._accuracy_floor(logits)

    def _accuracy_floor(self, logits: Logits) -> None:
        """Hold the accuracy against what the caller asks for."""
        percent = percent_right(logits, self.labels)
        if percent is None:
            self.ledger.not_applicable("parity", "accuracy_floor", "there are no labels")
        else:
            self.ledger.record("parity", "accuracy_floor", percent)

    def _accuracy_drop(self, logits: Logits, reference: Logits) -> None:
        """Hold the accuracy against the reference's, on all images: it asks for no equal choices."""
        file_percent, reference_percent = (percent_right(each, self.labels) for each in (logits, reference))
        if file_percent is None or reference_percent is None:
            self.ledger.not_applicable("parity", "accuracy_drop", "there are no labels")
        else:
            self.ledger.record("parity", "accuracy_drop", reference_percent - file_percent)

    def _locate(self, forced: Indices | None) -> None:
        """Say in which layer the error is made, where a gate of selection or parity failed."""
        self.details["localisation"] = None
        failed = {check.name for check in self.ledger.checks if check.status == "failed"}
        if failed.isdisjoint(LOCATED_GATES):
            return
        from aps_deploy.verification.localisation.locating import located, nowhere

        if self.reference.kind != "checkpoint":
            found = nowhere("the reference is no PyTorch network, so its layers cannot be compared")
            self.details["localisation"] = found.to_dict()
            return
        order = dict.fromkeys([self.details["parity"]["worst_image"], *range(len(self.images))])
        rows = np.array(list(order)[:LOCATED_IMAGES])
        found = located(
            self.graph,
            self.session,
            self.layers,
            cast(Reference, self.reference),
            self.images[rows],
            None if forced is None else forced[rows],
            gates=self.ledger.gates,
        )
        self.details["localisation"] = found.to_dict()
        if self.graph is not None:
            self.ledger.add_to_failed(LOCATED_GATES, found.words)

    def _consistency(self, tied: npt.NDArray[np.bool_], logits: Logits | None = None) -> None:
        with _timed("the file under shifts"):
            found = measure_consistency(
                self.session,
                self.images,
                self.shifts,
                batch_size=self.batch_size,
                tied=tied,
                base=logits,
                progress=self.progress,
            )
        family = self.reference.family or family_of(max(self.images.shape[2:]))
        with _timed("the authors' protocol"):
            authors = authors_consistency(
                self.session,
                self.images,
                self.labels,
                protocol=IMAGENET_PROTOCOL if family == "imagenet" else CIFAR_PROTOCOL,
                seed=self.seed,
                batch_size=self.batch_size,
                base=logits,
                progress=self.progress,
            )
        self.details["consistency"] = found.to_dict()
        self.details["reference_consistency"] = self._reference_consistency(tied)
        self.details["worst_case"] = self._worst_case(found)
        self.details["authors_protocol"] = authors.to_dict()
        self.counts.update(
            pairs=found.num_pairs,
            changed_pairs=found.num_pairs - found.agreeing_pairs,
            not_identical_pairs=found.num_pairs - found.identical_pairs,
            tied_pairs=found.tied_pairs,
            tied_not_identical_pairs=found.tied_pairs - found.tied_identical_pairs,
        )
        self.ledger.record("consistency", "non_finite_pairs", found.non_finite_pairs)
        if found.num_pairs == 0:
            fault = "every image ties in the reference, so nothing was measured"
        else:
            fault = (
                f"worst at image {found.worst_image} and shift {found.worst_shift}, "
                f"largest logit change {found.max_logit_change:.3g}"
            )
        fault += self._why(found)
        self.ledger.record("consistency", "top1_consistency", found.top1_percent, fault=fault)
        self.ledger.record("consistency", "identical_shifts", found.identical_shifts_percent, fault=fault)
        self.ledger.record("consistency", "authors_consistency", authors.consistency_percent)

    def _reference_consistency(self, tied: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
        """Return how a few images fare in the reference; None where the shifts are too many, or it cannot be run."""
        if not self.reference.can_run:
            return None
        count = min(REFERENCE_IMAGES, REFERENCE_PAIRS // len(self.shifts))
        if count == 0:
            return None
        free = np.flatnonzero(~tied)
        candidates = free if len(free) else np.arange(len(tied))
        # Spread over the images, which come class by class.
        rows = candidates[np.unique(np.linspace(0, len(candidates) - 1, count).astype(int))]
        progress = self.progress
        found = measure_consistency(
            self.reference,
            self.images[rows],
            self.shifts,
            batch_size=self.batch_size,
            tied=tied[rows],
            progress=None if progress is None else lambda _, done, total: progress("reference shifts", done, total),
        )
        document = found.to_dict()
        # Positions among these few images would be taken for positions among all.
        for name in ("worst_image", "worst_shift", "worst_pair"):
            del document[name]
        return {**document, "images": [int(row) for row in rows]}

    def _worst_case(self, found: Consistency) -> dict[str, Any] | None:
        """Keep the worst pair as arrays, and return what the certificate tells of it."""
        pair = found.worst_pair
        if pair is None:
            return None
        session, reference = self.session, self.reference
        about = {
            "reference_sha256": reference.sha256,
            "runtime": session.runtime,
            "device": session.device,
            "providers": list(session.providers),
            "image_position": pair.image,
        }
        runner = reference if reference.can_run else None
        self.worst_case = make_worst_case(session, runner, self.images, pair, about)
        names = session.metadata.class_names or reference.class_names
        preprocessing = session.metadata.preprocessing or reference.preprocessing
        return {
            "image": pair.image,
            "image_file": None,
            "shift": [pair.dy, pair.dx],
            "in_batch": {
                "changes_class": pair.changes_class,
                "bit_identical": pair.identical,
                "max_logit_change": finite_or_none(pair.max_logit_change),
            },
            **self.worst_case.to_dict(preprocessing, names),
            "file": None,
        }

    def _why(self, found: Consistency) -> str:
        """Return, where a gate of consistency fails, which operator makes the worst case differ."""
        gates, case = self.ledger.gates, self.worst_case
        percents = {"top1_consistency": found.top1_percent, "identical_shifts": found.identical_shifts_percent}
        self.details["probe"] = None
        if case is None or all(gates[name].accepts(percent) for name, percent in percents.items()):
            return ""
        from aps_deploy.verification.probe.explaining import explain_worst_case

        explanation = explain_worst_case(self.graph, self.session, case)
        self.details["probe"] = explanation.to_dict()
        return "" if self.graph is None else f"; {explanation.words}"

    def _crop_shifts(self) -> None:
        """Move windows over a few images, which changes what is seen: for the record, not for the verdict."""
        scene = self.scene or padded_scene(self.images[np.array(spread_positions(len(self.images)))])
        reference = self.reference if self.reference.can_run else None
        found = measure_crop_shifts(self.session, reference, scene, batch_size=self.batch_size, progress=self.progress)
        self.details["crop_shifts"] = found.to_dict()
        self.ledger.record("consistency", "crop_consistency", found.file_top1_percent)

    def _batches(self) -> None:
        ledger = self.ledger
        result = check_batches(
            self.session, self.images, atol=ledger.limit("batch_atol"), rtol=ledger.limit("batch_rtol")
        )
        self.details["batch"] = result.to_dict()
        takes_one = self.session.input_spec.batch == 1
        for name, difference in (
            ("repeat_difference", result.repeat),
            ("identical_rows", result.identical_rows),
            ("batch_size_difference", result.size),
            ("batch_slot_difference", result.slot),
        ):
            if takes_one and name != "repeat_difference":
                ledger.not_applicable("batch", name, "the file takes one image per run")
                continue
            ledger.record("batch", name, difference.excess, fault=f"max abs {difference.max_abs:.3g}")


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    """Say in the log how long a step took, so that the reference's own time can be told from the file's."""
    start = time.perf_counter()
    yield
    _LOGGER.info("%s: %.1f s", what, time.perf_counter() - start)


def _check_shape(logits: npt.NDArray[Any], count: int, source: str) -> None:
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] < 1:
        raise InputError(
            f"{source} gives an output of shape {logits.shape} for {count} images; accepted are classifiers, whose "
            "first output is (N, classes)."
        )

"""Verify the packaged network in every precision and keep the certificates in docs/certificates.

    scripts/certify                              256 packaged images, 64 of 1,023 shifts: minutes per precision
    scripts/certify --budget 262144              every shift of them: an hour or so per precision on two cores
    scripts/certify --data cifar10/test --images 10000 --budget 80000 --calibration cifar10/train
                                                 all test images, 8 shifts each; ranges of the int8 file from images
                                                 that it is not verified on

A certificate that did not pass is not kept: what failed is printed, and the exit code is 1. Run it again
whenever the packaged network changes; tests/verification/test_kept_certificates.py says when.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aps_deploy.export import export_checkpoint
from aps_deploy.files import atomic_path
from aps_deploy.packaged import packaged_images
from aps_deploy.verification import Certificate, verify_path

NAME = "resnet20_aps3.cifar10"
IMAGES = "cifar10"
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "certificates"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
# ONNX Runtime has no bf16 kernels on a CPU; onnx's evaluator has all of them and takes some 10 ms an image.
SLOW_IMAGES, SLOW_SHIFTS = 256, 64
# In bf16 everywhere, one of the 256 packaged images has a logit 4 % beyond the tolerance; with pixels and the first
# convolution in float32 none has.
KEPT_FP32 = {"bf16": ("bn1/Conv",)}


def certify(precision: str, chosen: argparse.Namespace) -> Certificate:
    """Return the certificate of the packaged network in one precision; the current folder holds the exported file."""
    file = Path(f"{NAME}.{precision}.onnx")
    calibration = chosen.calibration if precision == "int8" else None
    kept = KEPT_FP32.get(precision, ())
    export_checkpoint(NAME, file, precision=precision, calibration=calibration, keep_fp32=kept)
    slow = precision == "bf16"
    return verify_path(
        file,
        NAME,
        data_name(chosen.data),
        num_images=min(chosen.images, SLOW_IMAGES) if slow else chosen.images,
        shifts="all",
        budget=min(chosen.budget, SLOW_IMAGES * SLOW_SHIFTS) if slow else chosen.budget,
        precision=precision,
        runtime="onnx-reference" if slow else "onnxruntime",
        device="cpu",
    )


def table(certificates: dict[str, Certificate]) -> str:
    """Return the page that shows what the certificates say."""
    head = (
        "# Certificates of the packaged network\n\n"
        f"`{NAME}`, exported in every precision and verified by `scripts/certify`; images are those in the package\n"
        f"(`{IMAGES}`) or of the folder named.\n"
        "`aps-deploy verify --from FILE --report report.html` makes a page of one.\n\n"
        "| file | runtime | images | images x shifts | same bits | same class | smallest cosine | accuracy "
        "| other choices, all explained |\n| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    rows = []
    for precision, certificate in certificates.items():
        parity, shifts = certificate.details["parity"], certificate.details["consistency"]
        explained, agreed = (certificate.counts[name] for name in ("explained", "agreed"))
        rows.append(
            f"| [{precision}]({NAME}.{precision}.certificate.json) | {certificate.environment['runtime']} "
            f"| {_folder_of(certificate)} "
            f"| {shifts['num_images']} x {shifts['num_shifts']} | {shifts['identical_pairs_percent']:.2f} % "
            f"| {shifts['top1_percent']:.2f} % | {parity['cosine']:.6f} | {parity['file_accuracy_percent']:.1f} % "
            f"| {explained} of {agreed + explained} |\n"
        )
    remarks = [remark(precision, each) for precision, each in certificates.items() for remark in (_kept, _calibrated)]
    return head + "".join(rows) + "".join(remarks)


def _folder_of(certificate: Certificate) -> str:
    words = shlex.split(certificate.command or "")
    return words[words.index("--data") + 1]


def _kept(precision: str, certificate: Certificate) -> str:
    """Return the sentence on the layers that are float32 all the same; empty where there are none."""
    names = certificate.file.get("kept_fp32")
    return f"\nIn the {precision} file {', '.join(names)} is kept in float32.\n" if names else ""


def _calibrated(precision: str, certificate: Certificate) -> str:
    """Return the sentence on the ranges of an int8 file; empty for another file."""
    calibration = certificate.file.get("calibration")
    if calibration is None:
        return ""
    told = f"{calibration['images']} images (hash `{calibration['sha256'][:16]}`, {calibration['method']})"
    return f"\nThe ranges of the {precision} file come from {told}.\n"


def data_name(folder: Path | str) -> str:
    """Return the name under which a folder of images stands in the commands of the certificates."""
    return IMAGES if folder == IMAGES else "-".join(Path(folder).parts[-2:])


@contextlib.contextmanager
def _working_folder(data: Path | str) -> Iterator[Path]:
    """Enter a folder in which the names of the certificates' commands stand for what was verified."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = packaged_images()[IMAGES] if data == IMAGES else Path(data)
        (folder / data_name(data)).symlink_to(source, target_is_directory=True)
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Keep certificates of the packaged network.")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=list(PRECISIONS))
    parser.add_argument("--data", default=IMAGES, help="folder of labelled images, or the packaged ones")
    parser.add_argument("--images", type=int, default=256, help=f"how many of them (bf16: at most {SLOW_IMAGES})")
    parser.add_argument(
        "--budget",
        type=int,
        default=2**14,
        help=f"pairs of an image and a shift (bf16: {SLOW_SHIFTS} an image at most)",
    )
    parser.add_argument("--calibration", default=IMAGES, help="folder of images, or the packaged ones")
    parser.add_argument("--out-dir", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    for name in ("data", "calibration"):
        if Path(getattr(chosen, name)).is_dir():
            setattr(chosen, name, Path(getattr(chosen, name)).resolve())
    chosen.out_dir = chosen.out_dir.resolve()
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Write the certificates, and the page of all in the folder, up to one that fails; return the exit code."""
    chosen = _options(arguments)
    passed, failed = [], False
    with _working_folder(chosen.data):
        for precision in chosen.precision:
            certificate = certify(precision, chosen)
            print(f"{precision}: {'passed' if certificate.passed else 'FAILED'}", flush=True)
            if not certificate.passed:
                print("\n".join(f"  {check.sentence()}" for check in certificate.failed_checks), file=sys.stderr)
                failed = True
                break
            passed.append((precision, certificate))
    # Only now: a file says whether the checkout that wrote it was changed, and the next one must not say so of this.
    for precision, certificate in passed:
        chosen.out_dir.mkdir(parents=True, exist_ok=True)
        certificate.save(chosen.out_dir / f"{NAME}.{precision}.certificate.json")
    if failed:
        return 1
    kept = {precision: chosen.out_dir / f"{NAME}.{precision}.certificate.json" for precision in PRECISIONS}
    certificates = {name: Certificate.from_json(path) for name, path in kept.items() if path.is_file()}
    with atomic_path(chosen.out_dir / "README.md") as temporary:
        temporary.write_text(table(certificates), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

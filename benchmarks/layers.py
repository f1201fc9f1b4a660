"""What a selecting layer alone costs on the CPU, beside a blur, plain striding and the authors' formulation.

    python -m benchmarks.layers                     # every size, batch 1 and 16, three runtimes: about ten minutes
    python -m benchmarks.layers --rounds 10 --settings 64x56x56:1 --runtimes onnxruntime
    python -m benchmarks.layers --write             # also benchmarks/results/layers.json

The maps are those of a ResNet-18 (and a narrow first stage); the last, 512 x 14 x 14, becomes 512 x 7 x 7. The blur has
3 x 3 taps and stands before the selection. In ONNX Runtime our layer is measured in each form that `export` writes; in
PyTorch there is one.
"""

from __future__ import annotations

import argparse

from aps_deploy.console import print_table
from benchmarks.calls import RUNTIMES, say_without_kernels, usable
from benchmarks.comparing import Pair, record, table_of
from benchmarks.layer_alone import FORMS, LayerSetting
from benchmarks.machine import machine
from benchmarks.reporting import RESULTS_FOLDER, add_common_options, keep, run_command

RESULTS = RESULTS_FOLDER / "layers.json"
MAPS = ("16x112x112", "64x112x112", "128x56x56", "256x28x28", "512x14x14")
SETTINGS = tuple(f"{maps}:{batch}" for maps in MAPS for batch in (1, 16))
NAMES = (*FORMS, "lpf", "strided", "authors")
# A layer of small maps is done in 50 us: a turn of one run would measure the waking of threads.
LEAST_S = 0.02
PAIRS = (
    *(Pair(form, "lpf") for form in FORMS),
    Pair("aps", "strided"),
    *(Pair("authors", form, better="higher") for form in FORMS),
)


def main() -> None:
    options = _options()
    say_without_kernels()
    measured = []
    for runtime in usable(options.runtimes):
        for setting in map(LayerSetting.parse, options.settings):
            calls = setting.calls(runtime, NAMES, options.threads)
            measured.append(record(str(setting), runtime, calls, PAIRS, options.rounds, least_s=LEAST_S))
    print_table(table_of(measured))
    if options.write:
        keep(
            options.write, {**machine(), "num_threads": options.threads, "rounds": options.rounds, "measured": measured}
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a selecting layer alone costs on the CPU.")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="CHANNELSxSIDExSIDE:BATCH")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    add_common_options(parser, RESULTS, rounds=30)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)

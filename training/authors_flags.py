"""The flags of the authors' two training scripts that `aps-deploy train` has under another form, or has no use for.

Most of their flags are second names of ours (`options`). The rest is accepted too, so that a command line of theirs
runs as it is: what asks for something that exists here is translated, what would change nothing is answered with one
sentence that says why, and what cannot be done is refused. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Option
from typer.core import TyperCommand

from aps_deploy.errors import InputError
from aps_deploy.training.recipes import RECIPES

_LOGGER = logging.getLogger(__name__)

STATE_FILE = "last.pt"

# Hidden from the help, which shows our own way to say it.
ResultsRoot = Annotated[Path | None, Option("--results-root-path", hidden=True, help="Folder of --model-folder.")]
DeviceId = Annotated[str | None, Option("--device-id", hidden=True, help="cpu, or N for --device cuda:N.")]
Dataset = Annotated[str | None, Option("--dataset", hidden=True, help="cifar10, the only one of their script.")]
PinMemory = Annotated[bool, Option("--pin-memory-flag", hidden=True, help="No effect.")]
SchedulerType = Annotated[
    Literal["StepLR", "MultiStepLR"] | None, Option("--scheduler-type", hidden=True, help="For --schedule.")
]
SchedulerFlag = Annotated[str | None, Option("--scheduler-flag", hidden=True, help="False: --schedule constant.")]
CosineRate = Annotated[bool, Option("--cos-lr", hidden=True, help="For --schedule cosine.")]
StartEpoch = Annotated[int, Option("--start-epoch", hidden=True, help="A resumed run knows its epoch.")]
StepOfRate = Annotated[float | None, Option("--lr-step", hidden=True, help="For --step-epochs; a float there.")]
OnFlips = Annotated[bool, Option("--evaluate-on-flips", hidden=True, help="Evaluate by protocol cifar-flip.")]
OnErase = Annotated[bool, Option("--evaluate-on-erase", hidden=True, help="Evaluate by protocol cifar-erase.")]
ErasePatch = Annotated[int | None, Option("--random-erase-patch", hidden=True, help="Side of the erased square.")]
ResumeFrom = Annotated[Path | None, Option("--resume-from", hidden=True, help="What --resume PATH becomes.")]
Pretrained = Annotated[bool, Option("--pretrained-without-file", hidden=True, help="Refused: give --weights FILE.")]
PrintFreq = Annotated[int | None, Option("--print-freq", "-p", hidden=True, help="No effect.")]
WorldSize = Annotated[
    int | None, Option("--world-size", hidden=True, help="--nnodes, where --batch-size is of one machine.")
]
BatchAccum = Annotated[
    int | None, Option("--batch-accum", "-ba", hidden=True, help="Batches whose mean gradients are added to a step.")
]
EvaluateSave = Annotated[bool, Option("--evaluate-save", hidden=True, help="Refused: give --evaluate, or nothing.")]
EpochsShift = Annotated[int | None, Option("--epochs-shift", hidden=True, help="No effect.")]
Embed = Annotated[bool, Option("--embed", hidden=True, help="No effect.")]
ValDebug = Annotated[bool, Option("--val-debug", hidden=True, help="Refused: give --data with them as train/.")]
SaveWeights = Annotated[Path | None, Option("--save-weights", hidden=True, help="Refused: `aps-deploy import`.")]
Wandb = Annotated[bool, Option("--wandb", hidden=True, help="No effect.")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuthorsFlags:
    """What was given of those flags; the fields are named as the options are."""

    results_root_path: Path | None = None
    device_id: str | None = None
    dataset: str | None = None
    pin_memory_flag: bool = False
    scheduler_type: str | None = None
    scheduler_flag: str | None = None
    cos_lr: bool = False
    start_epoch: int = 0
    lr_step: float | None = None
    evaluate_on_flips: bool = False
    evaluate_on_erase: bool = False
    random_erase_patch: int | None = None
    resume_from: Path | None = None
    pretrained_without_file: bool = False
    world_size: int | None = None
    batch_accum: int | None = None
    print_freq: int | None = None
    evaluate_save: bool = False
    epochs_shift: int | None = None
    embed: bool = False
    val_debug: bool = False
    save_weights: Path | None = None
    wandb: bool = False

    @property
    def num_machines(self) -> int | None:
        """What ``--world-size`` says; their scripts write -1 for "not given".

        Raises:
            InputError: it is no number of machines.
        """
        if self.world_size is None or self.world_size == -1:
            return None
        if self.world_size < 1:
            raise InputError(f"--world-size is {self.world_size}; it must be at least 1.")
        return self.world_size

    @property
    def protocol(self) -> Literal["cifar-flip", "cifar-erase"] | None:
        """The protocol of `aps-deploy evaluate` that is asked for."""
        if self.evaluate_on_flips and self.evaluate_on_erase:
            raise InputError("--evaluate-on-flips and --evaluate-on-erase exclude each other; give one of them.")
        if self.evaluate_on_erase:
            return "cifar-erase"
        return "cifar-flip" if self.evaluate_on_flips else None


_WITHOUT_EFFECT = {
    "pin_memory_flag": "images are pinned where there is a GPU",
    "start_epoch": "a run that is continued knows its epoch",  # theirs reads it off the checkpoint, too
    "print_freq": "the progress bar shows every step",
    "epochs_shift": "the consistency is measured once, with the shifts of its seed",
    "embed": "there is no interactive shell in a run",
    "wandb": "metrics.jsonl of --out-dir has every number",
}


class AuthorsCommand(TyperCommand):
    """A command that also takes `--resume PATH`, which is a flag here, and `--pretrained`, which takes a file here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after the command's name."""
        return super().parse_args(ctx, as_ours(args))


def as_ours(words: Sequence[str]) -> list[str]:
    """Return a command line whose `--resume PATH` and `--pretrained` without a file are spelled our way."""
    found: list[str] = []
    for number, word in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else None
        has_value = following is not None and not following.startswith("-")
        if word == "--resume" and has_value:
            found.append("--resume-from")
        elif word == "--pretrained" and not has_value:
            found.append("--pretrained-without-file")
        else:
            found.append(word)
    return found


def translated(chosen: dict[str, Any], flags: AuthorsFlags) -> dict[str, Any]:
    """Return the settings that were chosen, with what the authors' flags say of them.

    Args:
        chosen: Fields of `TrainSettings`.
        flags: What was given of the authors' flags.

    Raises:
        InputError: a flag asks for what there is not, or contradicts one of ours.
    """
    _check(flags)
    chosen = dict(chosen)
    if flags.lr_step is not None:
        _choose(chosen, "step_epochs", _whole_epochs(flags.lr_step), "--lr-step")
    if flags.results_root_path is not None:
        if chosen["out_dir"] is None:
            raise InputError("--results-root-path needs --model-folder, the folder of the run in it.")
        chosen["out_dir"] = flags.results_root_path / chosen["out_dir"]
    if flags.device_id is not None:
        _choose(chosen, "device", _device_of(flags.device_id), "--device-id")
    _choose_schedule(chosen, flags)
    _choose_batches(chosen, flags)
    if flags.resume_from is not None:
        chosen["resume"] = True
        _choose(chosen, "out_dir", _run_of(flags.resume_from), "--resume PATH")
    chosen["evaluate"] = chosen["evaluate"] or flags.protocol is not None
    if chosen["evaluate"] and chosen["weights"] is None and chosen["out_dir"] is not None:
        chosen["resume"] = True  # theirs evaluates the best checkpoint of the model's folder
    if flags.start_epoch != 0 and not chosen["resume"]:
        raise InputError(
            f"--start-epoch is {flags.start_epoch}, but no run is continued; give --resume with --out-dir, and the run "
            "knows its epoch."
        )
    for name, reason in _WITHOUT_EFFECT.items():
        if getattr(flags, name) not in (None, False):
            _LOGGER.warning("--%s has no effect here: %s", name.replace("_", "-"), reason)
    return chosen


def with_machines(chosen: dict[str, Any], flags: AuthorsFlags) -> dict[str, Any]:
    """Return what was chosen of `LaunchSettings`, with the machines of ``--world-size``.

    Raises:
        InputError: ``--nnodes`` says something else.
    """
    chosen = dict(chosen)
    _choose(chosen, "nnodes", flags.num_machines, "--world-size")
    return chosen


def _check(flags: AuthorsFlags) -> None:
    if flags.dataset not in (None, "cifar10"):
        raise InputError(f"--dataset is {flags.dataset}; theirs knows cifar10 only. Give any images with --data.")
    if flags.pretrained_without_file:
        raise InputError("--pretrained names no file, and the authors released none; give --weights FILE.")
    if flags.val_debug:
        raise InputError("--val-debug trains on the validation images; give --data a folder with them as train/.")
    if flags.save_weights is not None:
        raise InputError(
            "--save-weights writes the loaded weights in the authors' script and trains nothing; `aps-deploy import "
            "WEIGHTS -o FILE.safetensors` does that, and a run's own are in best.safetensors of --out-dir."
        )
    if flags.evaluate_save:
        raise InputError(
            "--evaluate-save writes validation images in the authors' script and trains nothing; leave it out, or "
            "give --evaluate to measure them."
        )
    if flags.random_erase_patch is not None and not flags.evaluate_on_erase:
        raise InputError("--random-erase-patch belongs to --evaluate-on-erase; give both, or neither.")


def _choose(chosen: dict[str, Any], name: str, value: Any, said: str) -> None:
    """Set what one of their flags says, unless ours says something else."""
    if value is not None:
        if chosen[name] not in (None, value):
            raise InputError(f"{said} means {value}, but {name.replace('_', '-')} is {chosen[name]}; give one of them.")
        chosen[name] = value


def _whole_epochs(number: float) -> int:
    if not number.is_integer():
        raise InputError(f"--lr-step is {number:g}; it must be a whole number of epochs, such as 30.")
    return int(number)


def _device_of(number: str) -> str | None:
    if number in ("cpu", "0"):
        return "cpu" if number == "cpu" else None  # theirs takes the CPU where there is no GPU
    if not number.isdecimal():
        raise InputError(f"--device-id is {number}; it must be cpu or the number of a GPU.")
    return f"cuda:{number}"


def _choose_schedule(chosen: dict[str, Any], flags: AuthorsFlags) -> None:
    if flags.scheduler_flag is not None:
        if flags.scheduler_flag not in ("True", "False"):
            raise InputError(f"--scheduler-flag is {flags.scheduler_flag}; it must be True or False.")
        _choose(chosen, "schedule", None if flags.scheduler_flag == "True" else "constant", "--scheduler-flag False")
    if flags.cos_lr:
        _choose(chosen, "schedule", "cosine", "--cos-lr")
    if flags.scheduler_type == "StepLR":
        _choose(chosen, "schedule", "step", "--scheduler-type StepLR")
    elif flags.scheduler_type == "MultiStepLR":
        _choose(chosen, "schedule", "milestones", "--scheduler-type MultiStepLR")
        chosen["milestones"] = chosen["milestones"] or "100,150"


def _choose_batches(chosen: dict[str, Any], flags: AuthorsFlags) -> None:
    """Set the batch of all machines and passes: theirs gives that of one machine and of one pass.

    Their script adds the mean gradients of N batches, ours takes the mean of all their images. Steps are the same with
    N times the rate and an Nth of the weight decay: p -= rate * v, v = momentum * v + gradient + decay * p.
    """
    passes, machines = 1 if flags.batch_accum is None else flags.batch_accum, flags.num_machines or 1
    if passes < 1:
        raise InputError(f"--batch-accum is {passes}; it must be at least 1.")
    if passes == machines == 1:
        return
    recipe = RECIPES.get(chosen["recipe"] or "imagenet")  # an unknown one is refused with the settings
    if recipe is None:
        return
    batch = chosen["batch_size"] or recipe.batch_size
    said = [f"--batch-size {batch * passes * machines}"]
    chosen["batch_size"] = batch * passes * machines
    if passes > 1:
        _choose(chosen, "accumulate", passes, "--batch-accum")
        for name, factor in (("learning_rate", passes), ("weight_decay", 1 / passes)):
            given = chosen[name]
            chosen[name] = factor * (getattr(recipe, name) if given is None else given)
        said += [f"--accumulate {passes} --learning-rate {chosen['learning_rate']:g}"]
        said += [f"--weight-decay {chosen['weight_decay']:g}"]
    _LOGGER.warning(
        "in the authors' script a step takes %d x %d images on each of its machines (%d): trained as %s",
        *(passes, batch, machines, " ".join(said)),
    )


def _run_of(path: Path) -> Path:
    """Return the folder of the run that a path of `--resume PATH` names.

    Raises:
        InputError: it is no run of ours.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / STATE_FILE).is_file():
        return folder
    raise InputError(
        f"--resume {path} names no run of aps-deploy (a folder with {STATE_FILE}); to start from other people's "
        f"weights, give --weights {path}."
    )

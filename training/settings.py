"""What a training run can be told: one frozen dataclass, checked before anything is read or written.

`None` means "the recipe's value" (or, on `resume`, "the value the run was started with"). A field `some_name` is the
flag `--some-name` of `aps-deploy train`. This module imports no torch, so that the command line can build settings,
and refuse bad ones, at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aps_deploy.errors import InputError

RecipeName = Literal["cifar10", "imagenet", "imagenet-modern", "fast"]
ScheduleName = Literal["step", "milestones", "one-cycle", "cosine", "constant"]
PrecisionName = Literal["auto", "float32", "bf16", "fp16"]

RECIPE_NAMES: tuple[str, ...] = get_args(RecipeName)

# What may differ between the first part of a run and its continuation without changing a number of it.
_FREE_ON_RESUME = frozenset(
    [
        *("out_dir", "data", "workers", "device", "dist_backend", "resume", "evaluate", "download", "progress"),
        *("weights", "checkpoint_seconds", "max_unreadable_images"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """All choices of one training run.

    Raises:
        InputError: values out of range, or flags that contradict each other; the message names the flags.
    """

    arch: str | None = None
    """Architecture: a registry name (`resnet20_aps3`) or the authors' way (`resnet18_aps` with `filter_size`)."""
    data: Path | None = None
    """Folder with `train/<class>/*` and `val/` or `test/`, or a folder for torchvision's CIFAR-10."""
    out_dir: Path | None = None
    """Where the run writes: `metrics.jsonl`, `curves.png`, `last.pt`, `last.safetensors`, `best.safetensors`."""
    recipe: RecipeName | None = None
    """Set of defaults below; None picks `cifar10` or `imagenet` by the family of the architecture."""
    resume: bool = False
    """Continue the run in `out_dir`; settings left at None are the ones it was started with."""
    evaluate: bool = False
    """Only evaluate `weights` (or, with `resume`, the best checkpoint of `out_dir`); nothing is trained."""
    weights: Path | None = None
    """Start from this checkpoint (ours by file or packaged name, or other people's); alias `--pretrained`."""
    seed: int | None = None
    """Seed of initialisation, order and augmentation (default 0)."""

    filter_size: int | None = None
    """Blur filter size 1 to 7, where `arch` does not say it."""
    criterion: str | None = None
    """Norm that selects the component (default `l2`); alias `--apspool-criterion`."""
    selection: Literal["exact", "float"] | None = None
    """Arithmetic of the selection (default `exact`)."""
    pool_only: bool | None = None
    """ImageNet family: keep the stride of the first convolution (invariant to even shifts only)."""
    padding: Literal["circular", "zeros"] | None = None
    """Padding of the convolutions (default `circular`)."""

    epochs: int | None = None
    """Passes over the training images."""
    batch_size: int | None = None
    """Images per step, over all processes."""
    learning_rate: float | None = None
    """Peak learning rate for the given batch size; alias `--lr`."""
    scale_learning_rate: bool | None = None
    """Multiply the learning rate by `batch_size` over the recipe's batch size: the linear rule of Goyal et al. 2017,
    "Accurate, Large Minibatch SGD", for batches that grow with the number of processes."""
    accumulate: int | None = None
    """Passes that share one optimizer step, each with its part of the batch: memory for time."""
    momentum: float | None = None
    """Momentum of SGD."""
    nesterov: bool | None = None
    """Nesterov's form of the momentum."""
    weight_decay: float | None = None
    """L2 penalty on all parameters; alias `--wd`."""
    label_smoothing: float | None = None
    """Share of the target spread over all classes, 0 to below 1."""
    schedule: ScheduleName | None = None
    """`step` (a drop every `step_epochs`), `milestones`, `one-cycle` (linear up, cosine to zero), `cosine` (the
    authors' `--cos-lr`) or `constant`."""
    step_epochs: int | None = None
    """`step` schedule: epochs between two drops."""
    milestones: str | None = None
    """`milestones` schedule (which it implies): epochs after which the rate drops, rising, such as `100,150`."""
    step_factor: float | None = None
    """`step` and `milestones` schedules: factor of each drop."""
    warmup_share: float | None = None
    """`one-cycle` schedule: share of the steps spent rising."""
    ema_decay: float | None = None
    """Validate and keep a moving average of the weights, which takes 1 - decay of them each step (0: no average).
    After t updates the decay is at most (1 + t) / (10 + t)."""

    random_resized_crop: bool | None = None
    """Train on random parts of the image files, of 8 to 100 % of their area, resized; evaluation crops the centre."""
    flip: bool | None = None
    """Mirror each training image with probability 1/2."""
    crop_padding: int | None = None
    """Random crop of the image padded by this many pixels per side (0: none)."""
    crop_padding_mode: Literal["zeros", "reflect", "circular"] | None = None
    """What the random crop finds outside the image; `circular` makes it a random circular shift per image."""
    circular_data_aug: bool | None = None
    """The authors' augmentation: one circular shift per batch; alias `--data-augmentation`."""
    circular_shift: int | None = None
    """Shifts of `circular_data_aug` and of the consistency protocol are drawn from -n to n-1."""

    holdout: int | None = None
    """Training images set aside for validation (numpy shuffle of seed 0, the last ones), when there is no `val/`."""
    train_split: float | None = None
    """Share of the training images to train on, the others being held out: another way to say `holdout`."""
    max_train_images: int | None = None
    """Train on this many images only (the first of the seed-0 shuffle)."""
    image_size: int | None = None
    """Side in pixels of the square network input."""
    resize: int | None = None
    """Shorter side in pixels before the centre crop; unset: only where images are not of `image_size`."""
    download: bool | None = None
    """Let torchvision download CIFAR-10 into `data` when the folder holds no images."""
    max_unreadable_images: int | None = None
    """So many images that cannot be read are left out of an epoch, counted in the metrics, before the run stops."""
    workers: int | None = None
    """Loader processes for images that are read from disk every epoch (small images are held in memory)."""

    precision: PrecisionName | None = None
    """Arithmetic of the training step; `auto`: bf16 where the CPU or GPU computes in it, else float32."""
    channels_last: bool | None = None
    """Memory order of the activations; the default is what was faster: on for CUDA, off for CPU."""
    compile: bool | None = None
    """Train through `torch.compile`."""
    deterministic: bool | None = None
    """Only algorithms of cuDNN that give the same numbers every time; alias `--cudnn-deterministic`."""
    device: str | None = None
    """`cpu`, `cuda` or `cuda:N` (default: CUDA where there is one)."""
    dist_backend: Literal["nccl", "gloo"] | None = None
    """How several processes talk to each other (default: NCCL between GPUs, gloo on CPUs)."""
    sync_batch_norm: bool | None = None
    """Among several processes: batch norms use the images of all of them, so that their number changes no result."""
    validate_consistency: bool | None = None
    """Also measure the shift consistency after every epoch (the authors' protocol, one shift per batch)."""
    checkpoint_seconds: float | None = None
    """Seconds of training after which the state is saved in the middle of an epoch too (default 300; 0: after every
    step that finds the last save finished)."""
    progress: bool | None = None
    """Progress bar on stderr (default: where stderr is a terminal)."""

    def __post_init__(self) -> None:
        for name in ("data", "out_dir", "weights"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, Path(value))
        self._check_ranges()
        self._check_conflicts()

    def _check_ranges(self) -> None:
        if self.recipe is not None and self.recipe not in RECIPE_NAMES:
            raise InputError(f"--recipe {self.recipe} is not known; choose one of {', '.join(RECIPE_NAMES)}.")
        at_least: dict[str, float] = {
            "seed": 0, "epochs": 1, "batch_size": 1, "accumulate": 1,
            "momentum": 0, "weight_decay": 0, "label_smoothing": 0,
            "step_epochs": 1, "crop_padding": 0, "circular_shift": 1, "holdout": 0, "max_train_images": 1,
            "image_size": 1, "resize": 1, "workers": 0, "warmup_share": 0,
            "ema_decay": 0, "checkpoint_seconds": 0,
            "max_unreadable_images": 0,
        }  # fmt: skip
        for name, lowest in at_least.items():
            value = getattr(self, name)
            if value is not None and not value >= lowest:
                raise InputError(f"{flag(name)} is {value}; it must be at least {lowest:g}.")
        if self.train_split is not None and not 0 < self.train_split <= 1:
            raise InputError(f"--train-split is {self.train_split}; it must be above 0 and at most 1, such as 0.9.")
        if self.milestones is not None:
            parse_milestones(self.milestones)
        for name in ("learning_rate", "step_factor"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{flag(name)} is {value}; it must be a positive number.")
        if self.seed is not None and self.seed >= 2**32:
            raise InputError(f"--seed is {self.seed}; it must be below 2**32.")
        for name in ("momentum", "label_smoothing", "warmup_share", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not value < 1:
                raise InputError(f"{flag(name)} is {value}; it must be below 1.")

    def _check_conflicts(self) -> None:
        if self.out_dir is None and not self.evaluate:
            raise InputError("--out-dir is missing; name a new folder for the run, such as --out-dir runs/first.")
        if self.evaluate and self.weights is None and not self.resume:
            raise InputError("--evaluate needs a checkpoint: give --weights FILE, or --resume with --out-dir.")
        if self.resume and self.out_dir is None:
            raise InputError("--resume needs the folder of the run to continue: give --out-dir.")
        if self.resume and self.weights is not None:
            raise InputError("--resume and --weights exclude each other: a resumed run goes on from its own weights.")
        if not self.resume and self.data is None:
            raise InputError("--data is missing; give a folder with train/<class>/ and val/ or test/.")
        if not self.resume and self.arch is None and not self.evaluate:
            raise InputError("--arch is missing; `aps-deploy models` lists the architectures.")
        if self.nesterov and self.momentum == 0:
            raise InputError("--nesterov needs a momentum: --momentum is 0.")
        if self.schedule is not None:
            check_schedule(self, self.schedule)
        if self.train_split is not None and self.holdout is not None:
            raise InputError("--train-split and --holdout exclude each other: give the share or the number.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values."""
        return {
            key: str(value) if isinstance(value, Path) else value for key, value in dataclasses.asdict(self).items()
        }


_SCHEDULES_OF: dict[str, tuple[ScheduleName, ...]] = {
    "step_epochs": ("step",),
    "milestones": ("milestones",),
    "step_factor": ("step", "milestones"),
    "warmup_share": ("one-cycle",),
}


def check_schedule(settings: TrainSettings, schedule: ScheduleName) -> None:
    """Refuse settings that a schedule has no use for, or the lack of one that it needs.

    Raises:
        InputError: naming the flag and the schedules it belongs to.
    """
    for name, schedules in _SCHEDULES_OF.items():
        if getattr(settings, name) is not None and schedule not in schedules:
            owners = " or ".join(schedules)
            raise InputError(f"{flag(name)} belongs to --schedule {owners}, not {schedule}; leave one of them out.")
    if schedule == "milestones" and settings.milestones is None:
        raise InputError("--schedule milestones needs the epochs of the drops: give --milestones, such as 100,150.")


def parse_milestones(text: str) -> tuple[int, ...]:
    """Return the epochs that `milestones` lists.

    Raises:
        InputError: they are no whole numbers of at least 1 that rise.
    """
    parts = [part.strip() for part in text.split(",")]
    epochs = tuple(int(part) for part in parts if part.isdecimal())
    if len(epochs) < len(parts) or any(a >= b for a, b in zip((0, *epochs), epochs, strict=False)):
        raise InputError(f"--milestones is {text!r}; it must list epochs that rise, from 1 on, such as 100,150.")
    return epochs


def flag(name: str) -> str:
    """Return the command-line spelling of a settings field."""
    return "--" + name.replace("_", "-")


def continued(given: TrainSettings, stored: Mapping[str, Any]) -> TrainSettings:
    """Return the settings of a resumed run: the stored ones, with what may change taken from `given`.

    Raises:
        InputError: `given` asks for a value that would change the numbers of the run, naming the flag.
    """
    merged: dict[str, Any] = {}
    for field in dataclasses.fields(TrainSettings):
        value, before = getattr(given, field.name), stored.get(field.name)
        if field.name in _FREE_ON_RESUME:
            merged[field.name] = before if value is None and field.name != "weights" else value
        elif value is None or value == before:
            merged[field.name] = before
        else:
            raise InputError(
                f"{flag(field.name)} is {value}, but the run in {given.out_dir} was started with "
                f"{'its default' if before is None else before}; leave the flag out, or start a new run in another "
                "--out-dir."
            )
    return TrainSettings(**merged)

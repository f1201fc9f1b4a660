"""How each training setting is spelled on the command line.

One annotated type per field of `TrainSettings`, in its order; the first name is the field's own, the others are the
spellings of the authors' and of torchvision's scripts. Underscores and dashes are the same to the command line, so
``--filter_size`` needs no entry. Imports no torch: ``aps-deploy train --help`` is built from this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from aps_deploy.training.settings import PrecisionName, RecipeName, ScheduleName

# What to train, on what, and where to.
Arch = Annotated[
    str | None,
    Option("--arch", "-a", help="Architecture, such as resnet20_aps3; `aps-deploy models` lists them.", metavar="NAME"),
]
Data = Annotated[
    Path | None,
    Option(
        "--data",
        "--dataset-path",
        help="Folder with train/<class>/ or train/*.tar, and val/ or test/; or a folder for torchvision's CIFAR-10.",
        metavar="DIR",
    ),
]
OutDir = Annotated[
    Path | None,
    Option("--out-dir", "--model-folder", help="New folder for metrics, curves and checkpoints.", metavar="DIR"),
]
Recipe = Annotated[
    RecipeName | None,
    Option(
        "--recipe",
        help="Set of defaults; by default cifar10 or imagenet, by the architecture's family. Where both families have "
        "--arch, cifar10 and fast take the CIFAR one: resnet18_aps3 becomes cifar_resnet18_aps3.",
    ),
]
Resume = Annotated[bool, Option("--resume", help="Continue the run in --out-dir.")]
Evaluate = Annotated[
    bool, Option("--evaluate", "-e", "--evaluate-only", help="Only evaluate --weights, or the run of --resume.")
]
Weights = Annotated[
    Path | None,
    Option("--weights", "--pretrained", help="Start from this checkpoint (ours or other people's).", metavar="FILE"),
]
Seed = Annotated[
    int | None, Option("--seed", "--seed-num", help="Seed of initialisation, order and augmentation [default: 0].")
]

# The network.
FilterSize = Annotated[
    int | None, Option("--filter-size", help="Blur filter size 1 to 7, where --arch does not name it.")
]
Criterion = Annotated[
    str | None,
    Option("--criterion", "--apspool-criterion", help="Norm that selects: l2, l1, linf, max, l2_min or l1_min."),
]
Selection = Annotated[Literal["exact", "float"] | None, Option("--selection", help="Arithmetic of the selection.")]
PoolOnly = Annotated[
    bool | None,
    Option("--pool-only/--no-pool-only", help="ImageNet family: keep the stride of the first convolution."),
]
Padding = Annotated[
    Literal["circular", "zeros"] | None, Option("--padding", "--conv-pad-type", help="Padding of the convolutions.")
]

# The optimiser and its schedule.
Epochs = Annotated[int | None, Option("--epochs", "-ep", "--num-epochs", help="Passes over the training images.")]
BatchSize = Annotated[int | None, Option("--batch-size", "-b", help="Images per step.")]
LearningRate = Annotated[float | None, Option("--learning-rate", "--lr", help="Peak learning rate.")]
ScaleLearningRate = Annotated[
    bool | None,
    Option(
        "--scale-learning-rate/--no-scale-learning-rate",
        "--scale-lr/--no-scale-lr",
        help="Multiply the rate by the batch size over the recipe's.",
    ),
]
Accumulate = Annotated[
    int | None,
    Option("--accumulate", help="Passes that share a step, each with its part of the batch."),
]
Momentum = Annotated[float | None, Option("--momentum", help="Momentum of SGD.")]
Nesterov = Annotated[bool | None, Option("--nesterov/--no-nesterov", help="Nesterov's form of the momentum.")]
WeightDecay = Annotated[float | None, Option("--weight-decay", "--wd", help="L2 penalty on all parameters.")]
LabelSmoothing = Annotated[
    float | None, Option("--label-smoothing", help="Share of the target spread over all classes.")
]
Schedule = Annotated[
    ScheduleName | None, Option("--schedule", help="How the learning rate falls; cosine is the authors' --cos-lr.")
]
StepEpochs = Annotated[
    int | None, Option("--step-epochs", "--step-size-lr", help="Step schedule: epochs between two drops.")
]
Milestones = Annotated[
    str | None,
    Option("--milestones", "--scheduler-milestones", help="Drop after these epochs instead.", metavar="N,N,..."),
]
StepFactor = Annotated[float | None, Option("--step-factor", "--gamma", help="Factor of each drop.")]
WarmupShare = Annotated[
    float | None, Option("--warmup-share", help="One-cycle schedule: share of the steps spent rising.")
]
EmaDecay = Annotated[
    float | None,
    Option(
        "--ema-decay",
        help="Keep a moving average of the weights, such as 0.999; after t updates the decay is at most "
        "(1 + t) / (10 + t), so that the average of a short run follows [default: 0, the weights alone].",
    ),
]

# Augmentation.
RandomResizedCrop = Annotated[
    bool | None,
    Option("--random-resized-crop/--no-random-resized-crop", help="Train on random parts of image files, resized."),
]
Flip = Annotated[bool | None, Option("--flip/--no-flip", help="Mirror each training image with probability 1/2.")]
CropPadding = Annotated[
    int | None, Option("--crop-padding", help="Random crop of the image padded by this many pixels.")
]
CropPaddingMode = Annotated[
    Literal["zeros", "reflect", "circular"] | None,
    Option("--crop-padding-mode", help="What the random crop finds outside the image."),
]
CircularDataAug = Annotated[
    bool | None,
    Option(
        "--circular-data-aug/--no-circular-data-aug",
        "--data-augmentation/--no-data-augmentation",
        "--data-augmentation-flag",
        help="The authors' augmentation: one circular shift per batch.",
    ),
]
CircularShift = Annotated[
    int | None,
    Option("--circular-shift", "--max-shift", help="Shifts of augmentation and consistency go from -n to n-1."),
]

# The images.
Holdout = Annotated[int | None, Option("--holdout", help="Training images set aside where there is no val/.")]
TrainSplit = Annotated[
    float | None, Option("--train-split", help="Share of the training images that is not set aside, for --holdout.")
]
MaxTrainImages = Annotated[int | None, Option("--max-train-images", help="Train on this many images only.")]
ImageSize = Annotated[
    int | None, Option("--image-size", "--base-center-crop", help="Side of the network's input in pixels.")
]
Resize = Annotated[int | None, Option("--resize", help="Shorter side in pixels before the centre crop.")]
Download = Annotated[
    bool | None, Option("--download/--no-download", help="Let torchvision download CIFAR-10 into --data.")
]
MaxUnreadableImages = Annotated[
    int | None,
    Option("--max-unreadable-images", metavar="N", help="Leave out so many images that cannot be read, per epoch."),
]
Workers = Annotated[int | None, Option("--workers", "-j", "--num-workers", help="Processes that read images.")]

# The machine.
Precision = Annotated[
    PrecisionName | None, Option("--precision", help="Arithmetic of a step; auto: bf16 where the hardware has it.")
]
ChannelsLast = Annotated[
    bool | None, Option("--channels-last/--no-channels-last", help="Memory order [default: on for CUDA].")
]
Compile = Annotated[bool | None, Option("--compile/--no-compile", help="Train through torch.compile.")]
Deterministic = Annotated[
    bool | None,
    Option(
        "--deterministic/--no-deterministic",
        "--cudnn-deterministic",
        help="Only algorithms of cuDNN that give the same numbers every time.",
    ),
]
DistBackend = Annotated[
    Literal["nccl", "gloo"] | None,
    Option("--dist-backend", help="How processes talk to each other [default: nccl for CUDA, else gloo]."),
]
SyncBatchNorm = Annotated[
    bool | None,
    Option(
        "--sync-batch-norm/--no-sync-batch-norm",
        help="Batch norms use the images of all processes, not of each its own.",
    ),
]
ValidateConsistency = Annotated[
    bool | None,
    Option("--validate-consistency/--no-validate-consistency", help="Measure shift consistency after every epoch."),
]
CheckpointSeconds = Annotated[
    float | None,
    Option("--checkpoint-seconds", metavar="S", help="Save the state this often inside an epoch too [default: 300]."),
]
Progress = Annotated[
    bool | None, Option("--progress/--no-progress", help="Progress bar [default: where stderr is a terminal].")
]

# Several processes; the authors' names, from PyTorch's ImageNet example, beside torchrun's.
NprocPerNode = Annotated[
    int | None, Option("--nproc-per-node", metavar="N", help="Processes on this machine, one per GPU [default: 1].")
]
Nnodes = Annotated[int | None, Option("--nnodes", metavar="N", help="Machines [default: 1].")]
NodeRank = Annotated[
    int | None,
    Option(
        "--node-rank", "--rank", metavar="N", help="Number of this machine, from 0; not needed with --rdzv-endpoint."
    ),
]
RdzvEndpoint = Annotated[
    str | None,
    Option("--rdzv-endpoint", "--dist-url", metavar="HOST:PORT", help="Where the machines meet: one of them."),
]
RdzvId = Annotated[str, Option("--rdzv-id", metavar="NAME", help="Name of the run, the same on all machines.")]
MaxRestarts = Annotated[
    int, Option("--max-restarts", min=0, metavar="N", help="How often processes that died are started again.")
]
MultiprocessingDistributed = Annotated[
    bool, Option("--multiprocessing-distributed", help="One process per GPU of this machine.")
]
Gpu = Annotated[int | None, Option("--gpu", min=0, metavar="N", help="The same as --device cuda:N.")]

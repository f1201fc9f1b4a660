"""The command `aps-deploy train`: settings from the command line, a run, and its summary.

Imports no torch, so that the help is there at once.
"""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import TYPE_CHECKING

import typer

from aps_deploy import options
from aps_deploy.console import print_rows
from aps_deploy.errors import InputError
from aps_deploy.training import authors_flags
from aps_deploy.training import options as settings_options
from aps_deploy.training.launch import DEFAULT_RUN_ID, LaunchSettings, launch
from aps_deploy.training.settings import TrainSettings

if TYPE_CHECKING:
    from aps_deploy.training.loop import TrainResult


def train(
    arch: settings_options.Arch = None,
    data: settings_options.Data = None,
    out_dir: settings_options.OutDir = None,
    recipe: settings_options.Recipe = None,
    resume: settings_options.Resume = False,
    evaluate: settings_options.Evaluate = False,
    weights: settings_options.Weights = None,
    seed: settings_options.Seed = None,
    filter_size: settings_options.FilterSize = None,
    criterion: settings_options.Criterion = None,
    selection: settings_options.Selection = None,
    pool_only: settings_options.PoolOnly = None,
    padding: settings_options.Padding = None,
    epochs: settings_options.Epochs = None,
    batch_size: settings_options.BatchSize = None,
    learning_rate: settings_options.LearningRate = None,
    scale_learning_rate: settings_options.ScaleLearningRate = None,
    accumulate: settings_options.Accumulate = None,
    momentum: settings_options.Momentum = None,
    nesterov: settings_options.Nesterov = None,
    weight_decay: settings_options.WeightDecay = None,
    label_smoothing: settings_options.LabelSmoothing = None,
    schedule: settings_options.Schedule = None,
    step_epochs: settings_options.StepEpochs = None,
    milestones: settings_options.Milestones = None,
    step_factor: settings_options.StepFactor = None,
    warmup_share: settings_options.WarmupShare = None,
    ema_decay: settings_options.EmaDecay = None,
    random_resized_crop: settings_options.RandomResizedCrop = None,
    flip: settings_options.Flip = None,
    crop_padding: settings_options.CropPadding = None,
    crop_padding_mode: settings_options.CropPaddingMode = None,
    circular_data_aug: settings_options.CircularDataAug = None,
    circular_shift: settings_options.CircularShift = None,
    holdout: settings_options.Holdout = None,
    train_split: settings_options.TrainSplit = None,
    max_train_images: settings_options.MaxTrainImages = None,
    image_size: settings_options.ImageSize = None,
    resize: settings_options.Resize = None,
    download: settings_options.Download = None,
    max_unreadable_images: settings_options.MaxUnreadableImages = None,
    workers: settings_options.Workers = None,
    precision: settings_options.Precision = None,
    channels_last: settings_options.ChannelsLast = None,
    compile: settings_options.Compile = None,
    deterministic: settings_options.Deterministic = None,
    device: options.Device = None,
    dist_backend: settings_options.DistBackend = None,
    sync_batch_norm: settings_options.SyncBatchNorm = None,
    validate_consistency: settings_options.ValidateConsistency = None,
    checkpoint_seconds: settings_options.CheckpointSeconds = None,
    progress: settings_options.Progress = None,
    nproc_per_node: settings_options.NprocPerNode = None,
    nnodes: settings_options.Nnodes = None,
    node_rank: settings_options.NodeRank = None,
    rdzv_endpoint: settings_options.RdzvEndpoint = None,
    rdzv_id: settings_options.RdzvId = DEFAULT_RUN_ID,
    max_restarts: settings_options.MaxRestarts = 3,
    multiprocessing_distributed: settings_options.MultiprocessingDistributed = False,
    gpu: settings_options.Gpu = None,
    results_root_path: authors_flags.ResultsRoot = None,
    device_id: authors_flags.DeviceId = None,
    dataset: authors_flags.Dataset = None,
    pin_memory_flag: authors_flags.PinMemory = False,
    scheduler_type: authors_flags.SchedulerType = None,
    scheduler_flag: authors_flags.SchedulerFlag = None,
    cos_lr: authors_flags.CosineRate = False,
    start_epoch: authors_flags.StartEpoch = 0,
    lr_step: authors_flags.StepOfRate = None,
    evaluate_on_flips: authors_flags.OnFlips = False,
    evaluate_on_erase: authors_flags.OnErase = False,
    random_erase_patch: authors_flags.ErasePatch = None,
    resume_from: authors_flags.ResumeFrom = None,
    pretrained_without_file: authors_flags.Pretrained = False,
    world_size: authors_flags.WorldSize = None,
    batch_accum: authors_flags.BatchAccum = None,
    print_freq: authors_flags.PrintFreq = None,
    evaluate_save: authors_flags.EvaluateSave = False,
    epochs_shift: authors_flags.EpochsShift = None,
    embed: authors_flags.Embed = False,
    val_debug: authors_flags.ValDebug = False,
    save_weights: authors_flags.SaveWeights = None,
    wandb: authors_flags.Wandb = False,
) -> None:
    """Train a network, or continue a run that was stopped.

    What is not given is the recipe's value: cifar10 and imagenet are the APS authors' settings, imagenet-modern
    today's, fast is for people in a hurry.
    """
    # The options are the fields of the settings, of the run and of the launch; tests/cli checks that none is missing.
    chosen = dict(locals())
    gpu = chosen.pop("gpu")
    if gpu is not None and device is not None:
        raise InputError("--gpu and --device exclude each other; give one of them.")
    chosen["device"] = device if gpu is None else f"cuda:{gpu}"
    flags = authors_flags.AuthorsFlags(
        **{field.name: chosen.pop(field.name) for field in fields(authors_flags.AuthorsFlags)}
    )
    launch_chosen = {field.name: chosen.pop(field.name) for field in fields(LaunchSettings)}
    launching = LaunchSettings(**authors_flags.with_machines(launch_chosen, flags))
    settings = TrainSettings(**authors_flags.translated(chosen, flags))
    if settings.evaluate:
        from aps_deploy.training.evaluate import evaluate_run

        print_rows(evaluate_run(settings, protocol=flags.protocol, erased_side=flags.random_erase_patch).rows())
        return
    # A run without a progress bar would be silent for hours: its epochs are worth a line each.
    logger = logging.getLogger("aps_deploy.training")
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    if launching.starts_processes:
        result = launch(settings, launching)
    else:
        from aps_deploy.training.loop import run_training

        result = run_training(settings)
    if result is None or not result.is_main:
        return  # another machine, or another process, speaks for the run
    typer.echo(_train_summary(result))
    # SIGTERM is how a batch system takes the machine away: everything is saved, which is what it asked for.
    if result.interrupted_by == "SIGINT":
        raise typer.Exit(130)


def _train_summary(result: TrainResult) -> str:
    lines = [f"{result.epochs} of {result.num_epochs} epochs done; everything is in {result.out_dir}"]
    if result.test is not None:
        consistency = "" if result.test.consistency is None else f", shift consistency {result.test.consistency:.2%}"
        lines.append(f"test accuracy {result.test.accuracy:.2%}{consistency} on {result.test.num_images} images")
    if result.interrupted_by is not None:
        resume = f"aps-deploy train --resume --out-dir {result.out_dir}"
        lines.append(f"stopped by {result.interrupted_by}; continue with: {resume}")
    elif result.checkpoint.is_file():
        lines.append(f"next: aps-deploy export {result.checkpoint} -o model.onnx")
    return "\n".join(lines)

"""Training and evaluation: settings, recipes, data, the loop.

    from aps_deploy.training.settings import TrainSettings
    from aps_deploy.training.loop import run_training

    run_training(TrainSettings(arch="resnet20_aps3", recipe="fast", data="cifar10", out_dir="runs/first"))

Importing this package, and `aps_deploy.training.settings`, costs nothing; the loop imports torch.
"""

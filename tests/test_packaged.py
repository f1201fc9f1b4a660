from __future__ import annotations

import subprocess
import sys

from aps_deploy import models, packaged


def test_every_packaged_network_is_a_file_under_its_name() -> None:
    found = packaged.packaged_models()
    assert list(found) == sorted(found)
    for name, path in found.items():
        assert path.is_file()
        assert path.name == f"{name}.safetensors"
    assert models.packaged_models is packaged.packaged_models


def test_the_packaged_images_are_folders_of_classes() -> None:
    (folder,) = packaged.packaged_images().values()
    assert sum(len(list(entry.glob("*.jpg"))) for entry in folder.iterdir() if entry.is_dir()) == 256


def test_names_are_known_without_torch() -> None:
    code = "import sys, aps_deploy.packaged as p; p.packaged_models(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

"""Which models there are: one ONNX file, or a folder in Triton's layout.

A model is a folder in it, ``birds/`` with ``birds/1/model.onnx``, ``birds/3/model.onnx`` and so on: a file per version,
of which the latest is served, or those that the optional ``birds/config.pbtxt`` names.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from aps_deploy.errors import InputError
from aps_deploy.runtimes.opening import ONNX_SUFFIXES, PLAN_SUFFIXES
from aps_deploy.serving.model_config import CONFIG_NAME, ModelConfig, model_filename, read_config


@dataclasses.dataclass(frozen=True)
class FoundVersion:
    """A version of a model on disk.

    Attributes:
        name: the model's name.
        version: its number.
        file: its ONNX file.
        folder: the model's folder; None for a single file.
        config: what its ``config.pbtxt`` says; None where there is none.
    """

    name: str
    version: int
    file: Path
    folder: Path | None
    config: ModelConfig | None


class Repository:
    """The models on disk.

    Args:
        target: an ONNX file or engine, or a folder in Triton's layout.

    Raises:
        InputError: there is no such file or folder, or it holds no model.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        if not target.exists():
            raise InputError(f"{target} does not exist; give an ONNX file, or a folder with NAME/1/model.onnx in it.")
        self.is_single_file = not target.is_dir()
        if self.is_single_file and target.suffix.lower() not in (*ONNX_SUFFIXES, *PLAN_SUFFIXES):
            raise InputError(
                f"{target} is no ONNX file and no engine; give a file made by `aps-deploy export` or a folder with "
                "NAME/1/model.onnx."
            )
        if not self.names():
            raise InputError(f"{target} holds no model; a model is a folder in it, such as NAME/1/model.onnx.")

    def without_place(self, text: str) -> str:
        """Return a sentence with the files of the repository named as in it, not by where the repository is."""
        root = self._target.parent if self.is_single_file else self._target
        # Messages of runtimes name files by their real place.
        for place in sorted({str(root), str(root.absolute()), str(root.resolve())}, key=len, reverse=True):
            text = text.replace(f"{place}{os.sep}", "")
        return text

    def names(self) -> list[str]:
        """Return the models' names, sorted."""
        if self.is_single_file:
            return [self._target.stem]
        return sorted(
            entry.name
            for entry in self._target.iterdir()
            if entry.is_dir() and not entry.name.startswith(".") and _is_model(entry)
        )

    def versions(self, name: str) -> list[FoundVersion]:
        """Return the versions of a model that its version policy serves, oldest first.

        Raises:
            InputError: there is no such model, its configuration cannot be read, or it has no version to serve.
        """
        if name not in self.names():  # a name is compared, never made into a path
            raise InputError(f"there is no model '{name}' in {self._target}.")
        if self.is_single_file:
            return [FoundVersion(name, 1, self._target, None, None)]
        folder = self._target / name
        path = folder / CONFIG_NAME
        config = read_config(path, name) if path.is_file() else None
        numbers = _served(_version_numbers(folder), config)
        if not numbers:
            raise InputError(
                f"{folder} has no version to serve; a version is a numbered folder, such as {folder.name}/1/model.onnx."
            )
        return [_found(name, number, folder, config) for number in numbers]


def _found(name: str, number: int, folder: Path, config: ModelConfig | None) -> FoundVersion:
    version = folder / str(number)
    filename = model_filename(config, version)
    if Path(filename).name != filename:
        raise InputError(
            f"{folder / CONFIG_NAME}: default_model_filename is {filename!r}; it must be a file's name without a path."
        )
    return FoundVersion(name, number, version / filename, folder, config)


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG_NAME).is_file() or bool(_version_numbers(folder))


def _version_numbers(folder: Path) -> list[int]:
    # As Triton does: folders that are no positive number, or are written with a leading zero, are no versions.
    return sorted(
        int(entry.name)
        for entry in folder.iterdir()
        if entry.is_dir() and entry.name.isascii() and entry.name.isdigit() and not entry.name.startswith("0")
    )


def _served(numbers: list[int], config: ModelConfig | None) -> list[int]:
    """Return the versions that the version policy serves: by default the latest."""
    policy = None if config is None else config.version_policy.WhichOneof("policy_choice")
    if config is None or policy in (None, "latest"):
        count = config.version_policy.latest.num_versions if config is not None and policy else 1
        return numbers[-max(1, count) :]
    if policy == "specific":
        wanted = set(config.version_policy.specific.versions)
        return [number for number in numbers if number in wanted]
    return numbers

"""Writes a model repository in Triton's layout: one model from one ONNX file, whole or not at all."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aps_deploy.errors import InputError
from aps_deploy.files import sha256_of, write_json, write_text
from aps_deploy.preprocessing import Preprocessing
from aps_deploy.runtimes.sidecar import sidecar_path
from aps_deploy.serving.door import check_certificate
from aps_deploy.serving.engine import OnnxEngine
from aps_deploy.serving.model_config import CONFIG_NAME, MODEL_FILENAMES, ONNX, PLAN, ModelConfig
from aps_deploy.serving.package.config import LABELS_FILE, WARM_UP_FILE, config_text, model_config
from aps_deploy.serving.package.contents import check_fits, ensemble_configs, requests_may_join, warm_up_image
from aps_deploy.serving.package.manifests import COMPOSE_FILE, KSERVE_FILE, compose_file, kserve_manifest, yaml_text
from aps_deploy.serving.package.settings import PackageSettings
from aps_deploy.serving.plan_engine import PlanEngine
from aps_deploy.verification.certificate import certificate_path


@dataclasses.dataclass(frozen=True)
class Package:
    """What was written.

    Attributes:
        repository: the folder of models.
        models: the models in it that are new, or have a new version.
        files: files beside the models: the compose file, the manifest.
        notes: what the user should know.
    """

    repository: Path
    models: tuple[str, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def package(settings: PackageSettings) -> Package:
    """Write the repository, or a new version of a model in it, and return what was written.

    Raises:
        InputError: the file cannot be served, is not proven, or the model or version is there already.
        ApsError: the file fails on its first run, or the disk is full.
    """
    if settings.requires_certificate:
        check_certificate(settings.file)
    engine = _read(settings)
    documents = _documents(settings)
    name, repository = settings.model_name, settings.repository
    model = repository / name
    version = model / str(settings.version)
    if version.exists():
        raise InputError(f"{version} exists; give --model-version {settings.version + 1}, or another --name.")
    if repository.exists() and not repository.is_dir():
        raise InputError(f"{repository} is no folder; give a folder, new or of models.")
    if model.exists():
        check_fits(model, engine, settings)
        notes = [f"{model / CONFIG_NAME} stays as it is, and with it how the model is run"]
        with _new_folder(version) as folder:
            _write_version(folder, settings)
        return Package(repository, (name,), _write_documents(documents, repository), tuple(notes))
    notes = list(engine.notes) if isinstance(engine, PlanEngine) else []
    joins = requests_may_join(engine, settings, notes)
    image = warm_up_image(engine, settings, notes)
    names = engine.metadata.class_names
    config = model_config(
        engine,
        settings,
        joins=joins,
        labels_of=engine.outputs[0].name if names else None,
        warm_up=None if image is None else image.shape,
    )
    extra = ensemble_configs(engine, config, settings) if settings.prepares_images else {}
    taken = [other for other in extra if (repository / other).exists()]
    if taken:
        raise InputError(f"{repository / taken[0]} exists; give another --name.")
    repository.mkdir(parents=True, exist_ok=True)
    with _new_folder(model) as folder:
        write_text(folder / CONFIG_NAME, config_text(config))
        if names:
            write_text(folder / LABELS_FILE, "".join(f"{label}\n" for label in names))
        if image is not None:
            (folder / "warmup").mkdir()
            (folder / "warmup" / WARM_UP_FILE).write_bytes(image.tobytes())
        (folder / str(settings.version)).mkdir()
        _write_version(folder / str(settings.version), settings)
    for other, other_config in extra.items():
        with _new_folder(repository / other) as folder:
            _write_extra(folder, other_config, engine, names)
    return Package(repository, (name, *extra), _write_documents(documents, repository), tuple(notes))


def _read(settings: PackageSettings) -> OnnxEngine | PlanEngine:
    if settings.is_plan:
        return PlanEngine(settings.file)
    return OnnxEngine(settings.file, device="cpu", num_threads=1)


def _write_version(folder: Path, settings: PackageSettings) -> None:
    """Write the file with what proves it: the document of its export and its certificate."""
    target = folder / MODEL_FILENAMES[PLAN if settings.is_plan else ONNX]
    shutil.copyfile(settings.file, target)
    for path in (sidecar_path, certificate_path):
        if path(settings.file).is_file():
            shutil.copyfile(path(settings.file), path(target))


def _write_extra(
    folder: Path, config: ModelConfig, engine: OnnxEngine | PlanEngine, names: tuple[str, ...] | None
) -> None:
    """Write one of the two models around the network: the ensemble, or what prepares its images."""
    write_text(folder / CONFIG_NAME, config_text(config))
    version = folder / "1"
    version.mkdir()
    if config.platform == "ensemble":
        # An empty folder is lost in an object store, and with it the version.
        write_text(version / "README", "An ensemble has no file of its own; config.pbtxt says what it is made of.\n")
        if names:
            write_text(folder / LABELS_FILE, "".join(f"{label}\n" for label in names))
        return
    from aps_deploy import errors, preprocessing
    from aps_deploy.serving.package import prepare_model

    write_text(version / "model.py", inspect.getsource(prepare_model))
    (version / "aps_deploy").mkdir()
    write_text(version / "aps_deploy" / "__init__.py", '"""The modules of aps-deploy that model.py needs."""\n')
    for module in (errors, preprocessing):
        source = Path(inspect.getfile(module))
        shutil.copyfile(source, version / "aps_deploy" / source.name)
    prepared = engine.metadata.preprocessing
    assert isinstance(prepared, Preprocessing)
    write_json(version / "preprocessing.json", prepared.to_dict())


def _documents(settings: PackageSettings) -> dict[str, str]:
    """Return the texts of the files beside the models, before anything is written."""
    documents = {}
    if settings.compose:
        documents[COMPOSE_FILE] = yaml_text(compose_file(settings))
    if settings.kserve:
        annotations = {"aps-deploy/file-sha256": sha256_of(settings.file)}
        documents[KSERVE_FILE] = yaml_text(kserve_manifest(settings, annotations))
    return documents


def _write_documents(documents: dict[str, str], repository: Path) -> tuple[Path, ...]:
    for name, text in documents.items():
        write_text(repository / name, text)
    return tuple(repository / name for name in documents)


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``path`` when everything in it is written, and vanishes otherwise."""
    # Triton and our server skip names that begin with a dot while the folder is filled.
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise

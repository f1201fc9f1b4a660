"""What starts a server on the repository: a compose file for one machine, an InferenceService for a cluster."""

from __future__ import annotations

from typing import Any

from aps_deploy.errors import InputError
from aps_deploy.serving.package.settings import PackageSettings

COMPOSE_FILE = "compose.yaml"
KSERVE_FILE = "kserve.yaml"

# cuBLAS and cuDNN would round float32 products to TF32, which the certificate knows nothing of.
_ENVIRONMENT = {"NVIDIA_TF32_OVERRIDE": "0"}
_MODELS = "/models"


def compose_file(settings: PackageSettings) -> dict[str, Any]:
    """Return a compose document that runs NVIDIA's Triton image on the folder it stands in."""
    service: dict[str, Any] = {"image": settings.triton_image}
    if settings.prepares_images:
        # The ensemble's first model needs Pillow, which the image does not bring.
        lines = [f"FROM {settings.triton_image}", "RUN pip install --no-cache-dir pillow numpy"]
        service = {"build": {"dockerfile_inline": "\n".join(lines) + "\n"}}
    service |= {
        "command": ["tritonserver", f"--model-repository={_MODELS}"],
        "environment": dict(_ENVIRONMENT),
        # Local clients only: Triton asks nobody who they are.
        "ports": [f"127.0.0.1:{port}:{port}" for port in (8000, 8001, 8002)],
        "volumes": [f".:{_MODELS}:ro"],
        "shm_size": "256mb",
        "stop_grace_period": "45s",
        "healthcheck": {
            "test": ["CMD", "curl", "--fail", "--silent", "http://127.0.0.1:8000/v2/health/ready"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "60s",
        },
    }
    if settings.needs_gpu:
        gpu = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [gpu]}}}
    return {"services": {"triton": service}}


def kserve_manifest(settings: PackageSettings, annotations: dict[str, str]) -> dict[str, Any]:
    """Return an InferenceService that runs the repository in KServe's Triton runtime.

    Args:
        settings: what is packaged; its ``storage_uri`` is where the cluster finds the repository.
        annotations: what people should find at the service, such as the file's hash.
    """
    resources: dict[str, dict[str, str]] = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}
    if settings.needs_gpu:
        resources["limits"]["nvidia.com/gpu"] = "1"
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": settings.service_name, "annotations": annotations},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "triton"},
                    "runtime": "kserve-tritonserver",
                    "protocolVersion": "v2",
                    "storageUri": settings.storage_uri,
                    "env": [{"name": name, "value": value} for name, value in _ENVIRONMENT.items()],
                    "resources": resources,
                }
            }
        },
    }


def yaml_text(document: dict[str, Any]) -> str:
    """Return a document as YAML, its members in their order.

    Raises:
        InputError: PyYAML, which the extra ``serve`` brings, is missing.
    """
    try:
        import yaml
    except ModuleNotFoundError:
        raise InputError('manifests need PyYAML; run `pip install "aps-deploy[serve]"`.') from None
    return str(yaml.safe_dump(document, sort_keys=False, width=120))

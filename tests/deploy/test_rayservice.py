"""The configurations of deploy/ray, by Ray Serve's own schema and Decant's; Kubernetes' for the pods."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deploy.ray.placement import placement
from deploy.ray.settings import Arguments, read
from server.config import ConfigError, check_variables
from tests.deploy.tools import DEPLOY, ROOT

RAY = DEPLOY / "ray"
ABORTS = 15  # seconds beyond the drain that a replica may take to end


def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((RAY / "rayservice.yaml").read_text(encoding="utf-8"))
    return loaded


def configurations() -> dict[str, dict[str, Any]]:
    return {
        "local.yaml": yaml.safe_load((RAY / "local.yaml").read_text(encoding="utf-8")),
        "rayservice.yaml": yaml.safe_load(manifest()["spec"]["serveConfigV2"]),
    }


def pods() -> dict[str, dict[str, Any]]:
    spec = manifest()["spec"]["rayClusterConfig"]
    groups = {"head": spec["headGroupSpec"], **{g["groupName"]: g for g in spec["workerGroupSpecs"]}}
    return {name: group["template"]["spec"] for name, group in groups.items()}


@pytest.mark.parametrize("name", ["local.yaml", "rayservice.yaml"])
def test_serve_takes_the_configuration(name: str) -> None:
    config = ServeDeploySchema.model_validate(configurations()[name])
    (application,) = config.applications
    assert application.import_path == "deploy.ray.application:build"
    assert [deployment.name for deployment in application.deployments] == ["Decant"]


@pytest.mark.parametrize("name", ["local.yaml", "rayservice.yaml"])
def test_decant_takes_its_settings(name: str, tmp_path: Path) -> None:
    given = configurations()[name]["applications"][0]["args"]
    if "api_keys_file" in given["settings"]:
        given["settings"]["api_keys_file"] = tmp_path / "keys"
        (tmp_path / "keys").write_text("k\n", encoding="utf-8")
    read(Arguments(**given))


def test_a_worker_pod_holds_one_replicas_placement_group(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("k\n", encoding="utf-8")
    application = configurations()["rayservice.yaml"]["applications"][0]
    given = application["args"]["settings"]
    settings = read(Arguments(settings={**given, "api_keys_file": tmp_path / "keys"}))
    bundles = placement(settings)["placement_group_bundles"]
    (container,) = pods()["gpu"]["containers"]
    assert sum(b.get("GPU", 0) for b in bundles) == int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert sum(b["CPU"] for b in bundles) <= int(container["resources"]["requests"]["cpu"])
    # Serve puts the replica into the first bundle.
    assert application["deployments"][0]["ray_actor_options"]["num_cpus"] <= bundles[0]["CPU"]
    assert pods()["gpu"]["terminationGracePeriodSeconds"] >= settings.drain_seconds + ABORTS


def test_the_image_and_the_manifest_have_the_ray_of_the_lock() -> None:
    lock = (ROOT / "requirements/ray.txt").read_text(encoding="utf-8")
    assert f"\nray=={manifest()['spec']['rayClusterConfig']['rayVersion']}\n" in lock
    assert 'ray = ["ray[serve]==2.60.0"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["head", "gpu"])
def test_kubernetes_would_take_the_pods(name: str) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="Kubernetes' schemas are not here: make tools"
    )
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pods()[name]}
    validate.validate(pod, "1.37", strict=True)
    (container,) = pods()[name]["containers"]
    assert pods()[name]["securityContext"]["runAsNonRoot"] is True
    assert pods()[name]["enableServiceLinks"] is False  # see the test below
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    volumes = {volume["name"] for volume in pods()[name]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_links_to_the_service_would_be_settings_that_do_not_exist() -> None:
    """What a kubelet sets for KubeRay's service unless a pod says enableServiceLinks: false."""
    service = f"{manifest()['metadata']['name']}-serve-svc".replace("-", "_").upper()
    with pytest.raises(ConfigError, match=f"{service}_SERVICE_HOST: no setting has this name"):
        check_variables({f"{service}_SERVICE_HOST": "10.0.0.1", f"{service}_SERVICE_PORT": "8000"})

"""The Helm chart, rendered by Helm's own engine and judged by Kubernetes' schemas. No cluster is asked."""

from typing import Any

import pytest
import yaml

from tests.deploy.tools import DEPLOY

helm = pytest.importorskip("helm_python", reason="Helm's engine is not here: make tools")
validate = pytest.importorskip("kubernetes_validate", reason="Kubernetes' schemas are not here: make tools")

CHART = DEPLOY / "helm/decant"
KEYS = {"apiKeys": {"existingSecret": "mine"}}
EVERYTHING: dict[str, Any] = {
    "apiKeys": {"values": ["k1", "k2"]},
    "hfTokenSecret": "hub",
    "gpu": {"count": 2},
    "config": {"drain_seconds": 120, "engines": {"base": {"model": "m"}}},
    "models": {"existingClaim": "models"},
    "autoscaling": {"enabled": True, "minReplicas": 2},
    "ingress": {"enabled": True, "className": "nginx", "hosts": [{"host": "a.example", "path": "/"}]},
    "networkPolicy": {"from": [{"namespaceSelector": {}}]},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "podLabels": {"team": "a"},
    "extraEnv": [{"name": "A", "value": "b"}],
}
CUSTOM = ("ScaledObject", "ServiceMonitor")  # whose schemas Kubernetes does not have
VERSIONS = ("1.29", "1.37")


def rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Objects by kind."""
    chart = helm.Chart.load(str(CHART))
    texts = chart.render(values, name="release", namespace="here")
    found = [
        one for name, text in texts.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text)
    ]
    return {one["kind"]: one for one in found if one}


def container(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (only,) = pod["containers"]
    return dict(only)


def test_helm_lints_it() -> None:
    found = helm.chart.lint(str(CHART), KEYS, strict=True)
    assert not found["errors"]
    assert {message["error"] for message in found["messages"]} <= {"icon is recommended"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "values", [KEYS, {"allowNoApiKey": True}, EVERYTHING], ids=["keys", "open", "everything"]
)
def test_kubernetes_would_take_every_object(values: dict[str, Any], version: str) -> None:
    objects = rendered(values)
    assert {"Deployment", "Service", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget"} <= set(objects)
    for kind, one in objects.items():
        assert kind not in CUSTOM
        validate.validate(one, version, strict=True)


def test_selectors_find_the_pods() -> None:
    objects = rendered(EVERYTHING)
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels.items()


def test_volumes_are_there_for_what_is_mounted() -> None:
    for values in (KEYS, EVERYTHING, {"allowNoApiKey": True}):
        objects = rendered(values)
        volumes = objects["Deployment"]["spec"]["template"]["spec"]["volumes"]
        mounted = {mount["name"] for mount in container(objects)["volumeMounts"]}
        assert mounted == {volume["name"] for volume in volumes}


def test_probes_ask_what_they_should() -> None:
    only = container(rendered(KEYS))
    assert only["livenessProbe"]["httpGet"]["path"] == only["startupProbe"]["httpGet"]["path"] == "/health"
    assert only["readinessProbe"]["httpGet"]["path"] == "/ready"
    startup = only["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 900


@pytest.mark.parametrize("drain", [0, 30, 90.5])
def test_a_pod_has_the_time_that_its_drain_takes(drain: float) -> None:
    objects = rendered({**KEYS, "config": {"drain_seconds": drain}, "preStopSeconds": 7})
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= 7 + drain + 15
    assert container(objects)["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    default = rendered({**KEYS, "config": {"drain_seconds": None}})["Deployment"]["spec"]["template"]["spec"]
    assert default["terminationGracePeriodSeconds"] >= 30 + 15


def test_pods_are_confined() -> None:
    pod = rendered(KEYS)["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False  # DECANT_PORT=tcp://... would be a setting that cannot be read
    security = pod["containers"][0]["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    writable = {m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/models", "/tmp", "/home/decant", "/dev/shm"}


def test_gpus_are_asked_for_by_value() -> None:
    limits = container(rendered(EVERYTHING))["resources"]["limits"]
    assert limits == {"memory": "8Gi", "nvidia.com/gpu": "2"}
    assert "nvidia.com/gpu" not in container(rendered(KEYS))["resources"]["limits"]


def test_pods_with_gpus_run_the_image_for_gpus() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    assert container(rendered(KEYS))["image"] == f"decant:{version}"
    assert container(rendered(EVERYTHING))["image"] == f"decant:{version}-cuda"
    own = rendered({**EVERYTHING, "image": {"tag": "mine"}})
    assert container(own)["image"] == "decant:mine"


def test_keys_come_from_a_secret() -> None:
    objects = rendered(EVERYTHING)
    assert objects["Secret"]["stringData"]["keys"].split() == ["k1", "k2"]
    volumes = {v["name"]: v for v in objects["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    assert volumes["keys"]["secret"]["secretName"] == objects["Secret"]["metadata"]["name"]
    assert "k1" not in str({kind: one for kind, one in objects.items() if kind != "Secret"})
    objects = rendered(KEYS)
    assert "Secret" not in objects
    volumes = {v["name"]: v for v in objects["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    assert volumes["keys"]["secret"]["secretName"] == "mine"


def test_the_configuration_is_one_that_decant_reads() -> None:
    from server.config import ServeSettings

    data = rendered(EVERYTHING)["ConfigMap"]["data"]["decant.yaml"]
    settings = ServeSettings(**yaml.safe_load(data))
    assert settings.drain_seconds == 120


def test_one_thing_scales() -> None:
    assert rendered(KEYS)["Deployment"]["spec"]["replicas"] == 1
    by_cpu = rendered({**KEYS, "autoscaling": {"enabled": True}})
    assert "replicas" not in by_cpu["Deployment"]["spec"]
    name = by_cpu["Deployment"]["metadata"]["name"]
    assert by_cpu["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == name
    by_load = rendered({**KEYS, "autoscaling": {"enabled": True}, "keda": {"enabled": True}})
    assert "HorizontalPodAutoscaler" not in by_load
    assert "replicas" not in by_load["Deployment"]["spec"]
    scaled = by_load["ScaledObject"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == name
    assert 'namespace="here"' in scaled["triggers"][0]["metadata"]["query"]


def test_metrics_are_scraped_with_a_key() -> None:
    token = {"name": "prometheus", "key": "token"}
    objects = rendered({**KEYS, "serviceMonitor": {"enabled": True, "bearerTokenSecret": token}})
    (endpoint,) = objects["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == token
    assert endpoint["port"] in {port["name"] for port in objects["Service"]["spec"]["ports"]}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "apiKeys.existingSecret"),
        ({**KEYS, "gpu": {"count": -1}}, "/gpu/count"),
        ({**KEYS, "unknown": 1}, "unknown"),
        ({**KEYS, "config": {"api_keys": ["x"]}}, "/config"),
        ({**KEYS, "config": {"port": 1}}, "/config"),
        ({**KEYS, "config": {"tls": {"certfile": "c", "keyfile": "k"}}}, "/config"),
        ({**KEYS, "keda": {"enabled": True, "minReplicas": 0}}, "/keda/minReplicas"),
        ({**KEYS, "image": {"repository": "a", "digest": "latest"}}, "/image/digest"),
        ({**KEYS, "shutdownMarginSeconds": 1}, "/shutdownMarginSeconds"),
        ({**KEYS, "serviceMonitor": {"enabled": True}}, "bearerTokenSecret.name"),
    ],
)
def test_values_that_cannot_be_are_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmError) as raised:
        rendered(values)
    assert named in str(raised.value)

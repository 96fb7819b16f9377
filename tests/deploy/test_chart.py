"""The Helm chart: lint, schemas of Kubernetes, and the same processes as compose's."""

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from generation.infra import addresses

helm = pytest.importorskip("helm_python.chart", reason="pip install helm-python-sdk")
schemas = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CHART = DEPLOY / "chart"
HOST = {"host": "retort.example.org"}
PUBLIC = ("93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946")
NOT_PUBLIC = (
    *("0.0.0.0", "10.1.1.1", "100.64.1.1", "127.0.0.1", "169.254.169.254", "172.20.0.1"),
    *("192.168.1.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "::1", "::ffff:10.0.0.1"),
    *("64:ff9b::a9fe:a9fe", "2002:a00:1::", "2001::1", "fd00::1", "fe80::1", "ff02::1"),
)
FULL: dict[str, Any] = {
    **HOST,
    "settings": {"RETENTION_DAYS": "30"},
    "imagePullSecrets": [{"name": "registry"}],
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "tlsSecret": "tls",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "off"},
    },
    "networkPolicy": {
        "enabled": True,
        "servers": [
            {"podSelector": {"matchLabels": {"app": "valkey"}}},
            {"ipBlock": {"cidr": "10.1.2.3/32"}},
        ],
    },
    "processes": {
        "reference": {"replicas": 1},
        "generation": {
            "env": {"DEVICE": "cuda"},
            "nodeSelector": {"gpu": "yes"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "resources": {"limits": {"nvidia.com/gpu": 1}},
        },
    },
}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    files = helm.Chart.load(CHART).render(values, name="shop", namespace="pictures", revision=1)
    texts = (text for path, text in files.items() if not path.endswith("NOTES.txt"))
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


def pods(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each process and the specification of its pods."""
    for manifest in rendered(values):
        if manifest["kind"] in ("Deployment", "Job"):
            template = manifest["spec"]["template"]
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def test_lint_finds_no_fault():
    report = helm.lint(CHART, HOST, strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("version", ["1.27", "1.34"])
@pytest.mark.parametrize("values", [HOST, FULL], ids=["minimal", "full"])
def test_manifests_match_the_kubernetes_schemas(values: dict[str, Any], version: str):
    manifests = rendered(values)
    assert {"Deployment", "Job", "Service", "PersistentVolumeClaim"} <= {
        m["kind"] for m in manifests
    }
    for manifest in manifests:
        schemas.validate(manifest, version, strict=True)


def test_the_chart_has_the_processes_of_compose():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    ours = dict(pods(FULL))
    assert ours.keys() == services.keys() - {"postgres", "redis"}
    for name, pod in ours.items():
        (container,) = pod["containers"]
        assert container.get("command") == services[name].get("command"), name
        seconds = services[name].get("stop_grace_period")
        if seconds is not None:
            assert f"{pod['terminationGracePeriodSeconds']}s" == seconds, name
        image = "web" if "retort-web" in services[name]["image"] else "worker"
        assert container["image"] == f"retort-{image}:0.1.0", name


def test_no_container_runs_as_root_writes_elsewhere_or_lacks_a_memory_limit():
    for name, pod in pods(HOST):
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] and rights["capabilities"] == {"drop": ["ALL"]}
            assert not rights["allowPrivilegeEscalation"]
            assert container["resources"]["limits"]["memory"], name


def test_variables_of_one_process_override_those_of_all():
    def variable(values: dict[str, Any], process: str, name: str) -> str | None:
        (container,) = dict(pods(values))[process]["containers"]
        return {row["name"]: row["value"] for row in container["env"]}.get(name)

    assert variable(FULL, "generation", "DEVICE") == "cuda"
    assert variable(FULL, "encode", "DEVICE") is None
    assert variable(FULL, "light", "RETENTION_DAYS") == "30"
    assert variable(FULL, "web", "CSRF_TRUSTED_ORIGINS") == "https://retort.example.org"
    assert variable(FULL, "web", "FORWARDED_ALLOW_IPS") == "127.0.0.1"


def test_the_pods_that_call_webhooks_reach_only_public_addresses_dns_and_their_servers():
    (policy,) = (one for one in rendered(FULL) if one["kind"] == "NetworkPolicy")
    spec = policy["spec"]
    labels = {
        one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"][
            "template"
        ]["metadata"]["labels"]
        for one in rendered(FULL)
        if one["kind"] == "Deployment"
    }
    selected = spec["podSelector"]["matchLabels"].items()
    assert [name for name, of_pod in labels.items() if selected <= of_pod.items()] == ["webhooks"]
    assert spec["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in spec
    strangers, servers, dns = spec["egress"]
    assert servers["to"] == FULL["networkPolicy"]["servers"]
    assert {port["port"] for port in servers["ports"]} == {5432, 6379}
    assert {port["port"] for port in dns["ports"]} == {53}

    def is_reached(address: str) -> bool:
        found = ipaddress.ip_address(address)
        return any(
            found in ipaddress.ip_network(block["cidr"])
            and not any(found in ipaddress.ip_network(one) for one in block["except"])
            for block in (peer["ipBlock"] for peer in strangers["to"])
        )

    assert all(map(is_reached, PUBLIC)) and not any(map(is_reached, NOT_PUBLIC))
    assert all(map(addresses.is_public, PUBLIC)) and not any(map(addresses.is_public, NOT_PUBLIC))


def test_a_network_policy_without_the_servers_is_refused_with_a_message():
    with pytest.raises(Exception, match=r"Set networkPolicy\.servers"):
        rendered({**HOST, "networkPolicy": {"enabled": True}})
    assert not any(one["kind"] == "NetworkPolicy" for one in rendered(HOST))


def test_a_missing_host_is_refused_with_a_message():
    with pytest.raises(Exception, match="Set host: the name under which people reach it"):
        rendered({})

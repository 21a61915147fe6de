"""Rules and dashboard: promtool's judgement, and that they ask for metrics that a server has."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from server.middleware import PROBES
from server.models import EMBEDDED_ARGUMENTS
from tests.deploy.tools import DEPLOY, run
from tests.e2e.process import serving

COMPOSE = DEPLOY / "compose"
RULES = COMPOSE / "prometheus/rules.yml"
DASHBOARD = COMPOSE / "grafana/dashboards/decant.json"
LABELS = re.compile(r"\{[^}]*\}|\b(?:by|on|without|ignoring)\s*\([^)]*\)")
METRIC = re.compile(r"(?<![\w:])((?:decant_|vllm:|decant:)\w+(?::\w+)*)")
# Every part that has metrics of its own: guides, cache methods, two engines, speculation with its governor.
ENGINES = {
    "base": {
        "model": "embedded:base",
        "guides": {"polite": "embedded:polite"},
        "cache_methods": ["kvmerger"],
    },
    "small": {
        "model": "embedded:small",
        "speculative": {"method": "draft_model", "model": "embedded:small", "num_speculative_tokens": 2},
    },
}


def names(expression: str) -> set[str]:
    """The metrics that a PromQL expression asks for."""
    return set(METRIC.findall(LABELS.sub(" ", re.sub(r'"[^"]*"', '""', expression))))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def expressions() -> dict[str, str]:
    """Every expression of the rules and the dashboard by where it stands."""
    found = {rule.get("record") or rule["alert"]: rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel.get("targets", ()):
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    return found


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all samples that a server's families have."""
    folder: Path = tmp_path_factory.mktemp("metrics")
    arguments = {**EMBEDDED_ARGUMENTS, "kv_cache_memory_bytes": 64 << 20}
    config = {"engines": ENGINES, "engine_args": arguments, "served_model_name": "demo"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with serving(folder / "log", "--config", str(folder / "config.yaml")) as server:
        lines = httpx.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    suffixes = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    families = [line.split()[2:4] for line in lines if line.startswith("# TYPE ")]
    return {f"{name}{suffix}" for name, kind in families for suffix in suffixes.get(kind, ("",))}


def test_names_are_found_in_expressions() -> None:
    expression = 'sum by (decant_x) (rate(vllm:a_bucket{decant_y="decant_z"}[5m])) / decant_b > decant:c:d5m'
    assert names(expression) == {"vllm:a_bucket", "decant_b", "decant:c:d5m"}


def test_every_metric_asked_for_is_one_that_a_server_has(exposed: set[str]) -> None:
    known = exposed | {rule["record"] for rule in rules() if "record" in rule}
    for where, expression in expressions().items():
        asked = names(expression)
        assert asked or "up{" in expression, where
        assert asked <= known, f"{where}: {asked - known}"


def test_every_metric_of_decants_own_has_a_panel(exposed: set[str]) -> None:
    """A metric that is added wants to be seen."""
    shown = {
        name for where, expr in expressions().items() if where.startswith("panel") for name in names(expr)
    }
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    ours = {name for name in exposed if name.startswith("decant_") and not name.endswith("_created")}
    missing = {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours} - families
    assert not missing, f"no panel shows {sorted(missing)}"


def test_probes_and_scrapes_are_no_requests() -> None:
    """Whatever adds the requests of all routes up leaves out what monitoring sends."""
    sums = {where: expr for where, expr in expressions().items() if "sum(rate(decant_requests_total" in expr}
    assert {"decant:requests:error_ratio5m", "DecantErrors", "panel Failed (5xx) A"} <= set(sums)
    for where, expression in sums.items():
        for selector in re.findall(r"sum\(rate\(decant_requests_total(.*?)\[", expression):
            (left_out,) = re.findall(r'route!~"([^"]*)"', selector) or [""]
            assert set(left_out.split("|")) == PROBES, where


def test_the_dashboard_is_one_that_grafana_lays_out() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        covered = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not covered & cells, f"{panel['title']} overlaps"
        cells |= covered
    source = yaml.safe_load((COMPOSE / "grafana/provisioning/datasources/prometheus.yaml").read_text("utf-8"))
    (given,) = source["datasources"]
    used = {t["datasource"]["uid"] for panel in panels() for t in panel.get("targets", ())}
    assert used == {given["uid"]}


def test_grafana_is_shown_where_its_dashboards_lie() -> None:
    text = (COMPOSE / "grafana/provisioning/dashboards/decant.yaml").read_text(encoding="utf-8")
    (provider,) = yaml.safe_load(text)["providers"]
    volumes = yaml.safe_load((COMPOSE / "compose.yaml").read_text("utf-8"))["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in volumes


def test_promtool_takes_the_rules_and_the_configuration() -> None:
    assert "SUCCESS" in run("promtool", "check", "rules", RULES)
    assert "SUCCESS" in run("promtool", "check", "config", "--syntax-only", RULES.with_name("prometheus.yml"))


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    written = []
    for where, expression in expressions().items():
        expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
        written.append({"record": f"x{len(written)}", "expr": expression, "labels": {"where": where}})
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": written}]}), encoding="utf-8")
    assert "SUCCESS" in run("promtool", "check", "rules", "--lint-fatal", path)


def test_alerts_fire_when_they_should_and_not_before() -> None:
    said = run("promtool", "test", "rules", Path(__file__).with_name("alerts.yml"))
    assert "SUCCESS" in said
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    tested = set(re.findall(r'alertname="?(\w+)', Path(__file__).with_name("alerts.yml").read_text("utf-8")))
    assert tested == alerts, "each alert has a case, and only these"

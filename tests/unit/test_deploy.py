"""What lies in deploy/ says nothing that is not so: settings, metrics, paths and commands exist, and each file is in
the form that its reader wants."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from compose_spec import PyCompose
from prometheus_client import REGISTRY
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bot import metrics as metrics
from bot.cli.main import app
from bot.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TEXTS = {
    path.relative_to(DEPLOY): path.read_text(encoding="utf-8") for path in sorted(DEPLOY.rglob("*")) if path.is_file()
}


def yaml(name: str) -> Any:
    return YAML(typ="safe").load(TEXTS[Path(name)])


def metric_names() -> set[str]:
    """As they are scraped: with _total, _bucket and so on."""
    names = set()
    for metric in REGISTRY.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
        names |= {metric.name + end for end in ends}
    return names


def expressions() -> list[str]:
    alerts = [rule["expr"] for group in yaml("alerts.yml")["groups"] for rule in group["rules"]]
    panels = json.loads(TEXTS[Path("grafana.json")])["panels"]
    return alerts + [target["expr"] for panel in panels for target in panel["targets"]]


def test_every_setting_named_in_deploy_exists() -> None:
    known = {f"OTVET_{name.upper()}" for name in Settings.model_fields}
    for path, content in TEXTS.items():
        assert set(re.findall(r"OTVET_[A-Z_]+", content)) <= known, path


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_is_promql_over_metrics_that_exist(expression: str) -> None:
    promql_parser.parse(expression)
    named = set(re.findall(r"\b(?:otvet|process)_[a-z_]+", expression))
    assert named <= metric_names() | {"up"}
    assert named or "up{" in expression


def test_every_metric_is_on_the_dashboard_or_among_the_alerts() -> None:
    shown = " ".join(expressions())
    ours = {metric.name for metric in REGISTRY.collect() if metric.name.startswith("otvet_")}
    assert {name for name in ours if name not in shown} == set()


def test_the_compose_file_is_what_its_specification_wants() -> None:
    spec = _plain(yaml("compose.yaml"))
    PyCompose.from_json(json.dumps(spec)).validate()
    spec["services"]["web"]["replicas"] = 2
    with pytest.raises(ValueError, match="replicas"):
        PyCompose.from_json(json.dumps(spec))


def _plain(value: Any) -> Any:
    """Without the extension fields, and with merged keys as plain ones."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if not str(key).startswith("x-")}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def test_the_compose_file_hangs_together() -> None:
    spec = yaml("compose.yaml")
    services = spec["services"]
    assert {"postgres", "valkey", "web", "worker", "proxy"} <= services.keys()
    assert services["worker"]["deploy"]["replicas"] == 2
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]  # nothing else is public
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= services.keys(), name
        assert set(service["networks"]) <= spec["networks"].keys(), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in spec["volumes"] or (DEPLOY / source).exists(), volume
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    for name in ("postgres", "valkey"):
        assert services[name]["networks"] == ["inside"]
    assert spec["networks"]["inside"] == {"internal": True}
    needed = set(re.findall(r"\$\{([A-Z_]+)", TEXTS[Path("compose.yaml")]))
    assert needed <= set(re.findall(r"^([A-Z_]+)=", TEXTS[Path("example.env")], re.MULTILINE))


def commands() -> list[list[str]]:
    units = re.findall(r"^ExecStart=\S+/otvet (.*)$", "\n".join(TEXTS.values()), re.MULTILINE)
    services = yaml("compose.yaml")["services"].values()
    return [line.split() for line in units] + [
        service["command"][1:] for service in services if service.get("command", [""])[0] == "otvet"
    ]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_the_options_that_are_given_to_it(command: list[str]) -> None:
    verb, *options = command
    helped = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert helped.exit_code == 0
    for option in options:
        if option.startswith("--"):
            assert option in helped.output


def test_the_image_copies_what_is_there() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", TEXTS[Path("Dockerfile")], re.MULTILINE)
    allowed = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    names = {name for line in copied for name in line.split()}
    assert names == allowed
    assert all((ROOT / name).exists() for name in names)


@pytest.mark.parametrize("unit", [path.name for path in TEXTS if path.suffix == ".service"])
def test_the_units_are_read_by_systemd(unit: str, tmp_path: Path) -> None:
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        pytest.skip("no systemd-analyze here: install systemd")
    content = TEXTS[Path("systemd", unit)].replace("/opt/otvet/.venv/bin/otvet", "/bin/true")
    (tmp_path / unit).write_text(content)
    name = unit.replace("@.", "@1.")
    result = subprocess.run([verifier, "verify", "--man=no", tmp_path / name], capture_output=True, text=True)
    if "Failed to" in result.stderr and unit not in result.stderr:
        pytest.skip(f"systemd-analyze can't work here: {result.stderr[:200]}")
    mentioned = [line for line in result.stderr.splitlines() if "otvet" in line and "postgresql" not in line]
    assert mentioned == []

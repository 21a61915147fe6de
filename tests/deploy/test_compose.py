"""deploy/compose: what must hold of the services. Docker itself does not run here."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import ServeSettings
from server.keys import digest_of
from tests.deploy.tools import DEPLOY, ROOT

COMPOSE = DEPLOY / "compose"
MARGIN = 15  # seconds beyond the drain in which aborted requests and engines end


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def expanded(text: str) -> str:
    """${NAME:-default} as without an .env."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_images_have_versions(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.search(r":v?\d+\.\d+\.\d+$", expanded(service["image"])), name


def test_services_are_hardened_and_reached_from_this_machine_only(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        for port in service["ports"]:
            assert expanded(port).startswith("127.0.0.1:"), name


def test_decant_may_write_and_load_code_where_it_compiles(compose: dict[str, Any]) -> None:
    """Docker's defaults are noexec, root as the owner, and the mode of the image's folder."""
    mounts = dict(mount.split(":") for mount in compose["services"]["decant"]["tmpfs"])
    assert set(mounts) == {"/tmp", "/home/decant"}
    for path, options in mounts.items():
        assert "exec" in options.split(","), path
    given = dict(option.split("=") for option in mounts["/home/decant"].split(",") if "=" in option)
    users = re.findall(r"^USER (\d+):(\d+)$", (DEPLOY / "Dockerfile.cpu").read_text(encoding="utf-8"), re.M)
    assert (given["uid"], given["gid"]) == users[-1]
    assert "mode=1777" in mounts["/tmp"].split(",")


def test_decant_has_longer_to_stop_than_it_drains(compose: dict[str, Any]) -> None:
    service = compose["services"]["decant"]
    grace = int(expanded(service["stop_grace_period"]).removesuffix("s"))
    assert grace >= int(expanded(service["environment"]["DECANT_DRAIN_SECONDS"])) + MARGIN


def test_decants_variables_are_its_settings(compose: dict[str, Any]) -> None:
    given = [name for name in compose["services"]["decant"]["environment"] if name.startswith("DECANT_")]
    assert given
    for name in given:
        assert name.removeprefix("DECANT_").lower() in ServeSettings.model_fields


def test_files_that_are_mounted_or_built_from_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (COMPOSE / source).is_dir(), source
    build = compose["services"]["decant"]["build"]
    assert (COMPOSE / build["context"] / expanded(build["dockerfile"])).resolve().is_file()
    gpu = yaml.safe_load((COMPOSE / "compose.gpu.yaml").read_text(encoding="utf-8"))
    build = gpu["services"]["decant"]["build"]
    assert (COMPOSE / build["context"] / build["dockerfile"]).resolve() == ROOT / "Dockerfile"


def test_each_kind_of_image_has_a_tag_of_its_own(compose: dict[str, Any]) -> None:
    """With one tag for both, the image that was built first is what runs."""
    gpu = yaml.safe_load((COMPOSE / "compose.gpu.yaml").read_text(encoding="utf-8"))["services"]["decant"]
    cpu = compose["services"]["decant"]
    assert (expanded(cpu["image"]), expanded(gpu["image"])) == ("decant:0.1.0", "decant:0.1.0-cuda")
    assert set(re.findall(r"\$\{(\w+)", cpu["image"])).isdisjoint(re.findall(r"\$\{(\w+)", gpu["image"]))
    files = {"Dockerfile": "decant:0.1.0-cuda", "deploy/Dockerfile.cpu": "decant:0.1.0"}
    for name, tag in files.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"\bdecant:\d\S*", text)) == {tag}, name
    assert "ARG DECANT=decant:0.1.0-cuda\n" in (DEPLOY / "ray/Dockerfile").read_text(encoding="utf-8")


def test_the_example_environment_has_every_variable() -> None:
    texts = [(COMPOSE / name).read_text(encoding="utf-8") for name in ("compose.yaml", "compose.gpu.yaml")]
    used = set(re.findall(r"\$\{(\w+)", "".join(texts)))
    lines = (COMPOSE / ".env.example").read_text(encoding="utf-8").splitlines()
    shown = {line.split("=")[0] for line in lines if line and not line.startswith("#")}
    assert used - {"HF_TOKEN"} == shown


def test_secrets_are_made_and_not_in_the_repository(compose: dict[str, Any], tmp_path: Path) -> None:
    script = tmp_path / "make-secrets"
    script.write_bytes((COMPOSE / "make-secrets").read_bytes())
    (tmp_path / "secrets").mkdir(mode=0o755)
    subprocess.run(["bash", str(script)], check=True, capture_output=True)
    made = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == {Path(secret["file"]).name for secret in compose["secrets"].values()}
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    settings = ServeSettings(host="0.0.0.0", api_keys_file=tmp_path / "secrets/api-keys")
    digests = {key.digest for key in settings.known_keys()}
    assert len(digests) == 2
    assert digest_of(made["metrics-key"].encode()) in digests
    subprocess.run(["bash", str(script)], check=True, capture_output=True)
    assert {p.name: p.read_text(encoding="utf-8") for p in (tmp_path / "secrets").iterdir()} == made
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"deploy/compose/secrets/", "deploy/compose/.env"} <= set(ignored)
    assert os.access(COMPOSE / "make-secrets", os.X_OK)


@pytest.mark.parametrize("end", ["", "\n"])
def test_keys_of_ones_own_get_the_one_that_prometheus_has(tmp_path: Path, end: str) -> None:
    script, keys = tmp_path / "make-secrets", tmp_path / "secrets/api-keys"
    script.write_bytes((COMPOSE / "make-secrets").read_bytes())
    keys.parent.mkdir()
    keys.write_text(f"alice a-key-of-alices # and more\nb-key{end}", encoding="utf-8")
    keys.chmod(0o444)

    def made() -> str:
        return subprocess.run(["bash", str(script)], check=True, capture_output=True, text=True).stdout

    def known() -> list[bytes]:
        return [key.digest for key in ServeSettings(host="0.0.0.0", api_keys_file=keys).known_keys()]

    assert "added Prometheus's key" in made()
    metrics = digest_of((keys.parent / "metrics-key").read_bytes())
    assert known() == [digest_of(b"a-key-of-alices"), digest_of(b"b-key"), metrics]
    before = keys.read_bytes()
    assert "added" not in made()
    assert keys.read_bytes() == before
    keys.chmod(0o644)
    keys.write_text(f"prometheus sha256:{metrics.hex().upper()}\n", encoding="utf-8")
    made()
    assert known() == [metrics]

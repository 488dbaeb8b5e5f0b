"""`t2i-engine deploy ray`: what it writes and refuses, and that it serves, on a stand-in (.ci/deploy has Ray)."""

import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from starlette.testclient import TestClient

from t2i_engine.bundle import Bundle
from t2i_engine.cli import main
from t2i_engine.engine import Engine
from t2i_engine.serve.service import Settings

Gauges = dict[str, float]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gauges]:
    """A stand-in for Ray that keeps what is bound, and the values of its gauges, which it gives."""
    values: Gauges = {}

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self.name, self.keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(self.keys)
            values[" ".join([self.name, *tags.values()])] = value

    def deployment(served: type) -> type:
        served.bind = lambda *arguments, **named: SimpleNamespace(made=served, arguments=arguments, named=named)  # type: ignore[attr-defined]
        return served

    serve = SimpleNamespace(deployment=deployment, ingress=lambda: lambda served: served)
    for name, content in (("ray", {"serve": serve}), ("ray.serve", {}), ("ray.serve.metrics", {"Gauge": Gauge})):
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "t2i_engine.serve.ray", raising=False)
    yield values
    sys.modules.pop("t2i_engine.serve.ray", None)


def deploy(*arguments: object) -> Path:
    result = CliRunner().invoke(main, ["deploy", "ray", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


def refused(*arguments: object) -> str:
    """The one line of an error."""
    result = CliRunner().invoke(main, ["deploy", "ray", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr.strip()


def deployment(folder: Path) -> dict[str, Any]:
    """What serve.yaml says about the one deployment."""
    (application,) = yaml.safe_load((folder / "serve.yaml").read_text("utf-8"))["applications"]
    (found,) = application["deployments"]
    assert isinstance(found, dict)
    return found


def test_a_copy_of_the_folder_serves_the_bundle(ray: Gauges, plain_bundle: Path, tmp_path: Path) -> None:
    folder = deploy(plain_bundle, "--out", tmp_path / "written").rename(tmp_path / "moved")
    config = yaml.safe_load((folder / "serve.yaml").read_text("utf-8"))
    module, _, name = config["applications"][0]["import_path"].partition(":")
    bound = runpy.run_path(str(folder / f"{module}.py"))[name]
    assert config["applications"][0]["name"] == Bundle.open(plain_bundle).name
    assert deployment(folder)["name"] == bound.made.__name__
    assert bound.arguments == (folder / "bundle",)
    replica = bound.made(*bound.arguments, **bound.named)
    with TestClient(replica.__serve_build_asgi_app__()) as client:
        picture = client.get("/v1/pictures/tiny.png?caption=a red bird&seed=3", headers={"X-Request-Id": "mine"})
        (tmp_path / "picture.png").write_bytes(picture.content)
        with Engine.open(plain_bundle, threads=1) as engine:
            assert engine.generate("a red bird", 3).save(tmp_path / "engine.png").read_bytes() == picture.content
        assert "x-request-id" not in picture.headers  # Ray adds it
        assert client.get("/nowhere").json()["error"]["code"] == "not_found"
        replica.check_health()
        assert ray["t2i_pictures_drawn_total tiny"] == 1
        assert ray["t2i_requests_total /v1/pictures/{name}.{suffix} 200"] == 1
        assert ray["t2i_request_seconds_bucket /v1/pictures/{name}.{suffix} +Inf"] == 1
        replica.service.draining = True
        with pytest.raises(RuntimeError, match="the server is stopping"):
            replica.check_health()
        assert ray["t2i_ready"] == 0


def test_an_embedded_bundle_goes_by_its_name(ray: Gauges, tmp_path: Path) -> None:
    folder = deploy("birds", "--out", tmp_path / "birds")
    assert sorted(file.name for file in folder.iterdir()) == ["app.py", "serve.yaml"]
    bound = runpy.run_path(str(folder / "app.py"))["app"]
    assert bound.arguments == ("birds",)
    assert bound.named == {"settings": Settings(workers=1, queue=256)}


def test_options_are_in_the_files(ray: Gauges, tmp_path: Path) -> None:
    options = "--min-replicas 0 --max-replicas 9 --cpus 3 --gpus 0.5 --queue 20 --health-period 7"
    folder = deploy("birds", "--out", tmp_path / "birds", *options.split())
    found = deployment(folder)
    assert found["ray_actor_options"] == {"num_cpus": 3, "num_gpus": 0.5}
    assert found["autoscaling_config"] == {"min_replicas": 0, "max_replicas": 9, "target_ongoing_requests": 12}
    assert found["health_check_period_s"] == 7
    assert found["max_ongoing_requests"] >= 20 + 3 * 8 + 1  # what waits, what is drawn, and one that is refused
    bound = runpy.run_path(str(folder / "app.py"))["app"]
    assert bound.named == {"settings": Settings(workers=3, queue=20, device="cuda")}


def test_the_documented_manifest_takes_the_config(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "deploying.md").read_text("utf-8")
    (manifest,) = (block for block in page.split("```") if "kind: RayService" in block)
    config = (deploy("birds", "--out", tmp_path / "birds") / "serve.yaml").read_text("utf-8")
    indented = "".join(f"    {line}" for line in config.splitlines(keepends=True))
    spec = yaml.safe_load(manifest.removeprefix("yaml") + indented)["spec"]
    assert yaml.safe_load(spec["serveConfigV2"]) == yaml.safe_load(config)
    cluster = spec["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert {one["name"] for one in container["env"]} == {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_HAPROXY_RETRY_ON"}


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept", "utf-8")
    assert "is not an empty folder; choose a new one, or delete it" in refused("birds", "--out", tmp_path)
    assert "unknown bundle 'birdz' (did you mean 'birds'?)" in refused("birdz", "--out", tmp_path / "new")
    for options, line in {
        "--min-replicas 5": "--max-replicas is 4; at least 5 (--min-replicas) expected",
        "--max-replicas 0": "'--max-replicas': 0 is not in the range x>=1.",
        "--gpus 1.5": "--gpus is 1.5; a fraction of one GPU, or a whole number of GPUs, expected",
        "--gpus nan": "--gpus is nan; a fraction of one GPU, or a whole number of GPUs, expected",
        "--gpus inf": "--gpus is inf; a fraction of one GPU, or a whole number of GPUs, expected",
        "--health-period 0": "'--health-period': 0 is not in the range 1<=x<=3600.",
    }.items():
        assert line in refused("birds", "--out", tmp_path / "new", *options.split())
    assert [file.name for file in tmp_path.rglob("*")] == ["kept"]


def test_a_bundle_that_needs_pytorch_or_is_damaged_is_refused(plain_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(plain_bundle, bundle)
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    (bundle / "generator.onnx").write_bytes(b"")
    assert "generator.onnx" in refused(bundle, "--out", tmp_path / "new")
    del manifest["parity"]["onnx"]
    (bundle / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    assert refused(bundle, "--out", tmp_path / "new").endswith(
        f"has no format that runs without PyTorch: t2i-engine export {bundle} --formats onnx"
    )
    assert not (tmp_path / "new").exists()


def test_without_ray_the_module_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = deploy("birds", "--out", tmp_path / "birds")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "t2i_engine.serve.ray", raising=False)
    with pytest.raises(Exception, match=r'serving on Ray needs the package ray: pip install "t2i-engine\[ray\]"'):
        runpy.run_path(str(folder / "app.py"))

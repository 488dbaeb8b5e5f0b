"""A bundle as an autoscaling deployment of Ray Serve (docs/deploying.md, "Ray Serve").

The module that it writes runs the server's own app, from t2i_engine/serve/ray.py. Ray's own settings are in serve.yaml.
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from export.deploy.folder import check_folder, write_folder
from t2i_engine.bundle import HUB, Bundle, embedded_names
from t2i_engine.errors import BundleError, OptionError
from t2i_engine.manifest import MANIFEST
from t2i_engine.serve.queue import LARGEST_BATCH

BUSY = 4
"""Requests per worker above which another replica is started: enough to draw several pictures at once."""


@dataclass(frozen=True)
class Scale:
    """How many replicas there are, and what each has."""

    min_replicas: int = 1
    max_replicas: int = 4
    cpus: int = 1
    """CPUs of each, and as many threads that draw."""
    gpus: float = 0.0
    """A fraction of one, or a whole number; 0: draws on CPUs."""
    queue: int = 256
    """Pictures that may wait in a replica."""
    health_period: int = 10
    """Seconds between checks."""

    def __post_init__(self) -> None:
        if self.max_replicas < max(self.min_replicas, 1):
            raise OptionError(
                f"--max-replicas is {self.max_replicas}; at least {max(self.min_replicas, 1)} (--min-replicas) expected"
            )
        if not (self.gpus <= 1 or self.gpus.is_integer()):  # nor nan
            raise OptionError(f"--gpus is {self.gpus:g}; a fraction of one GPU, or a whole number of GPUs, expected")


def deploy_ray(name_or_folder: str, folder: Path, scale: Scale) -> Path:
    """Writes a config and a module for Ray Serve to a new or empty folder, and returns it.

    A bundle given as a folder is copied into it; one from the hub is pinned to its commit, and fetched where it runs.
    Raises a `UserError` if the bundle cannot be used without PyTorch, or the folder cannot be written.
    """
    bundle = Bundle.open(name_or_folder)
    check_folder(folder)
    if all(row.backend == "pytorch" for row in bundle.formats):
        command = f"t2i-engine export {shlex.quote(name_or_folder)} --formats onnx"
        raise BundleError(f"bundle {bundle.name!r} has no format that runs without PyTorch: {command}")
    files: dict[str, bytes | Path] = {}
    if name_or_folder.startswith(HUB):
        source = json.dumps(f"{name_or_folder.partition('@')[0]}@{bundle.folder.name}")  # the hub's cache is by commit
    elif name_or_folder in embedded_names():
        source = json.dumps(name_or_folder)
    else:
        source = 'Path(__file__).with_name("bundle")'
        files = {f"bundle/{file}": bundle.path(file) for file in bundle.manifest.files}
        files[f"bundle/{MANIFEST}"] = bundle.folder / MANIFEST
    files["app.py"] = _module(bundle.name, source, scale).encode()
    files["serve.yaml"] = _config(bundle.name, scale).encode()
    return write_folder(folder, files)


def _module(name: str, source: str, scale: Scale) -> str:
    device = ', device="cuda"' if scale.gpus else ""
    imports = "from pathlib import Path\n\n" if source.startswith("Path") else ""
    return f'''"""Serves {name} on Ray, as serve.yaml says."""

{imports}from t2i_engine.serve.ray import Pictures
from t2i_engine.serve.service import Settings

app = Pictures.bind({source}, settings=Settings(workers={scale.cpus}, queue={scale.queue}{device}))
'''


def _config(name: str, scale: Scale) -> str:
    ongoing = scale.queue + 2 * LARGEST_BATCH * scale.cpus
    return f"""# Ray Serve's config, written by t2i-engine deploy ray.
proxy_location: EveryNode
http_options:
  host: 0.0.0.0  # anyone who can reach it can draw; 127.0.0.1: this machine only
  port: 8000
applications:
- name: {json.dumps(name)}
  route_prefix: /
  import_path: app:app
  deployments:
  - name: Pictures
    ray_actor_options:  # of each replica
      num_cpus: {scale.cpus}  # as many as workers in app.py
      num_gpus: {scale.gpus:g}
    autoscaling_config:
      min_replicas: {scale.min_replicas}
      max_replicas: {scale.max_replicas}
      target_ongoing_requests: {BUSY * scale.cpus}  # per replica; more of them start another
    max_ongoing_requests: {ongoing}  # more than may wait and be drawn, so that the app does the refusing
    max_queued_requests: {ongoing * scale.max_replicas}  # in each proxy, those under way included: fills every replica
    backpressure_config:
      status_code: 429
      retry_after_s: 1
    health_check_period_s: {scale.health_period}
"""

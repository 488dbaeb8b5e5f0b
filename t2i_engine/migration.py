"""Migration from earlier versions: bundles, whose graphs and pictures stay the same, and names that changed."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2i_engine.errors import BundleError, OutputError
from t2i_engine.files import is_hub_snapshot, write_atomically
from t2i_engine.manifest import MANIFEST, SCHEMA, Manifest
from t2i_engine.provenance import data_terms
from t2i_engine.schema import SchemaError, read_json

OLD_SIZES = {"picture_side": "resolution", "base_width": "base_channels", "width_limit": "max_channel_multiple"}
"""Renamed fields of `ModelSizes`."""

OLD_KEYS = {
    "initial": "init_from",
    "data.side": "data.resolution",
    "data.pictures": "data.synthbirds_count",
    "data.mirror": "data.horizontal_flip",
    "data.crop": "data.random_crop",
    "data.workers": "data.num_workers",
    "model.base_width": "model.base_channels",
    "model.width_limit": "model.max_channel_multiple",
    "damsm.initial": "damsm.init_from",
    "damsm.retrain": "damsm.finetune",
    "damsm.spots": "damsm.random_erasing",
    "gan.accumulate": "gan.gradient_accumulation",
    "gan.penalty_weight": "gan.gradient_penalty_weight",
    "gan.penalty_power": "gan.gradient_penalty_power",
    "gan.penalty_interval": "gan.gradient_penalty_interval",
    "gan.hard_mismatches": "gan.hard_negatives",
    "gan.discriminator_head_start": "gan.discriminator_warmup",
    "fid.pictures": "fid.count",
}
"""Keys of a training config in earlier versions, and what they are called now."""

_MANIFEST = {"unproved": "unverified", "left_out": "rejected"}
_EVALUATION = {"picture_side": "resolution", "left_out": "skipped", "faithfulness": "attribute_accuracy"}
_DROPPED = ("image_encoder.safetensors", "discriminator.safetensors")
"""Networks that only training reads; schema 1 kept them in the bundle."""


def migrate_bundle(folder: Path) -> Path:
    """Rewrites a bundle's manifest in the current schema, adds the terms of its data, and returns the folder.

    A current bundle stays as it is. The manifest is replaced atomically; files that it no longer lists are deleted only
    after that. Raises `BundleError` if the folder holds no bundle, or one of a newer schema, and `OutputError` if it
    cannot be written, or belongs to the hub's cache.
    """
    if is_hub_snapshot(folder):
        raise OutputError(f"{folder} belongs to the hub's cache; migrate a copy: cp -rL {shlex.quote(str(folder))} DIR")
    file = folder / MANIFEST
    try:
        content = file.read_bytes()
        manifest = Manifest.from_json(_current(content))
        if manifest.license is None:
            manifest = replace(manifest, license=data_terms(manifest.provenance))
    except OSError as error:
        raise BundleError(f"{file} cannot be read ({error.strerror}); a bundle is a folder with a {MANIFEST}") from None
    except SchemaError as error:
        raise BundleError(f"{file} cannot be migrated: {error}") from None
    if manifest.to_json() != content:
        write_atomically(file, manifest.to_json(), "migrate a writable copy")
    for name in set(_DROPPED) - manifest.files.keys():
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot delete {folder / name} ({error.strerror}); delete it by hand") from None
    return folder


def _current(content: bytes) -> bytes:
    """Converts a manifest of schema 1 to the current schema; returns anything else unchanged."""
    found = read_json(content)
    if not isinstance(found, dict) or found.get("schema") != 1 or not isinstance(found.get("files"), dict):
        return content
    if isinstance(found.get("model"), dict):
        found["model"] = _renamed(found["model"], OLD_SIZES)
    if isinstance(found.get("provenance"), dict):
        _rename_provenance(found["provenance"])
    found["files"] = {name: entry for name, entry in found["files"].items() if name not in _DROPPED}
    return json.dumps(_renamed(found, _MANIFEST) | {"schema": SCHEMA}).encode()


def _rename_provenance(provenance: dict[str, object]) -> None:
    metrics, config, added = (provenance.get(name) for name in ("metrics", "config", "added"))
    if isinstance(config, dict):
        provenance["config"] = migrate_config(config)
    for export in [provenance.get("export"), *(added if isinstance(added, list) else [])]:
        if isinstance(export, dict) and "proved_with" in export:
            export["verified_with"] = export.pop("proved_with")
    if isinstance(metrics, dict) and isinstance(metrics.get("evaluations"), list):
        found = metrics["evaluations"]
        metrics["evaluations"] = [_renamed(one, _EVALUATION) if isinstance(one, dict) else one for one in found]


def migrate_config(config: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """A training config, or a `section` of one such as "gan.", with the keys of earlier versions renamed."""
    migrated = {}
    for key, value in config.items():
        name = OLD_KEYS.get(section + key, section + key).removeprefix(section)
        migrated[name] = migrate_config(value, f"{section}{key}.") if isinstance(value, Mapping) else value
    return migrated


def _renamed(content: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    return {names.get(name, name): value for name, value in content.items()}

"""Checkpoint to bundle; `pipeline.export_bundle` is the whole pipeline: read, graphs, precision, gate, write."""

"""Checkpoint to bundle; `pipeline.export_bundle` is the whole way: read, graphs, precision, gate, write."""

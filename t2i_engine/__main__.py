"""`python -m t2i_engine`: the command line."""

from t2i_engine.cli import main

main(prog_name="t2i-engine")

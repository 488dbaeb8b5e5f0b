"""`t2i-engine train`: a config to a checkpoint."""

from pathlib import Path

import click

from t2i_engine.errors import needs_extra


@click.command(epilog="Example:  t2i-engine train training/configs/birds.yaml --out runs/birds")
@click.argument("config", type=Path, metavar="CONFIG.yaml")
@click.option("--out", type=Path, metavar="FOLDER", help="The run's folder.  [default: runs/NAME]")
@click.option("--resume", is_flag=True, help="Resume from the folder's last checkpoint.")
@click.option(
    "--init",
    "initial",
    metavar="CHECKPOINT|STATE|BUNDLE",
    help="Start from these weights; a smaller generator is grown to fit. A state (.safetensors) continues the run of "
    "the same name.",
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override the config: gan.steps=1000.")
@click.option("--dry-run", is_flag=True, help="Print config, sizes, memory and FLOPs; write nothing.")
@click.option(
    "--profile",
    "profiled_steps",
    type=click.IntRange(1),
    metavar="N",
    help="Print where the time of N GAN steps goes, without starting a run.",
)
def train(
    config: Path,
    out: Path | None,
    resume: bool,
    initial: str | None,
    assignments: tuple[str, ...],
    dry_run: bool,
    profiled_steps: int | None,
) -> None:
    """Train the model that CONFIG.yaml describes.

    Prints the path of its checkpoint. Ctrl-C finishes the current step, saves and exits with code 130.
    """
    with needs_extra("t2i-engine train", "train"):
        from training.config import configured
        from training.distributed import is_first
        from training.stages import train_files

    if dry_run:
        from training.dry_run import describe

        click.echo(describe(configured(config, initial, assignments)), nl=False)
        return
    if profiled_steps:
        with needs_extra("t2i-engine train --profile", "benchmark"):
            from benchmarks.step_profile import profile_training

        for line in profile_training(configured(config, initial, assignments), profiled_steps):
            click.echo(line)
        return
    checkpoint = train_files(config, out, resume, initial, assignments)
    if is_first():
        click.echo(checkpoint)

"""Numbers of finished runs as a table (Markdown) and a plot, seeds averaged; only what has one protocol is compared.

    python -m experiments.compare runs/knn/digits runs/knn/digits-seed=1 runs/dino_pretrain/digits
    python -m experiments.compare runs/*/digits --metrics 'knn/*' test/loss --output pictures/digits

Columns are metrics: the encoder's name is not part of them, so that `knn` holds the number of each run's own encoder,
and `knn/random` and `knn/pixels` its baselines. Runs that differ in nothing but the seed (their own, or that of the run
they started from) are one row, mean ± standard deviation.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from cvjax.experiment.config import ConfigError, command


@dataclasses.dataclass(frozen=True)
class Config:
    """Which runs, and which of their numbers."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    metrics: tuple[str, ...] = ()
    """Names of metrics or columns, with wildcards; by default the headlines, such as knn and test/top1."""
    mix_protocols: bool = False
    """Put numbers of different protocols into one column all the same, and mark it."""
    output: Path = Path("comparison")
    """OUTPUT.md and OUTPUT.png are written."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ConfigError("no runs given")


def run(config: Config) -> None:
    """Read, compare, print, write, draw."""
    from cvjax.experiment.comparison import HEADLINES, compare, read_run
    from cvjax.visualize.comparison import plot_comparison

    if config.output.is_dir() or not config.output.parent.is_dir():
        raise ConfigError(f"--output {config.output}: it must be the start of a file's name in a folder that exists")
    comparison = compare([read_run(path) for path in config.runs], config.metrics or HEADLINES,
                         mix_protocols=config.mix_protocols)
    text = comparison.markdown()
    print(text)
    table, picture = (config.output.with_name(config.output.name + ending) for ending in (".md", ".png"))
    table.write_text(text)
    plot_comparison(picture, comparison.titles,
                    {label: [None if cell is None else (cell.mean, cell.deviation) for cell in cells]
                     for label, cells in comparison.rows.items()})
    print(f"written to {table} and {picture}")


if __name__ == "__main__":
    command(run, "compare", Config, __doc__)

"""The work of `python -m experiments.compare`; its options are in experiments/compare.py."""

from cvjax.errors import ConfigError
from cvjax.text import write_text
from cvjax.visualize.comparison import plot_comparison
from cvjax.workflow.compare import HEADLINES, compare, read_run, why_left_out
from experiments.compare import Config


def run(config: Config) -> None:
    """Read, compare, print, write, draw."""
    if config.output.is_dir() or not config.output.parent.is_dir():
        raise ConfigError(f"--output {config.output}: it must be a file name without ending, in a folder that exists")
    finished = []
    for path in config.runs:
        if reason := why_left_out(path):
            print(f"left out: {path} {reason}")
        else:
            finished.append(path)
    if not finished:
        raise ConfigError(f"none of the {len(config.runs)} given is a finished run")
    comparison = compare([read_run(path) for path in finished], config.metrics or HEADLINES,
                         mix_protocols=config.mix_protocols)
    text = comparison.markdown()
    print(text)
    table, picture = (config.output.with_name(config.output.name + ending) for ending in (".md", ".png"))
    write_text(table, text)
    plot_comparison(picture, comparison.titles,
                    {label: [None if cell is None else (cell.mean, cell.deviation) for cell in cells]
                     for label, cells in comparison.rows.items()})
    print(f"written to {table} and {picture}")

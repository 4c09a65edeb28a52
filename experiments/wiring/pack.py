"""The work of `python -m experiments.pack`; its options are in experiments/pack.py."""

from cvjax.data.sources.packing import write_pack
from cvjax.text import printable
from experiments.pack import Config


def run(config: Config) -> None:
    """Write the pack, and print its contents."""
    manifest = write_pack(config.source.partition(":")[2], config.output, image_size=config.image_size,
                          quality=config.quality, shard_bytes=config.shard_mb * 2**20,
                          limit_fraction=config.data_max_bad, overwrite=config.overwrite)
    for split, facts in manifest["splits"].items():
        size = sum(shard["bytes"] for shard in facts["shards"])
        print(f"{split}: {facts['records']:,} images, {size / 2**20:,.1f} MB in {len(facts['shards'])} files")
    if manifest["ignored"]:
        print(f"left out: {printable(manifest['ignored'])}")
    if manifest["unreadable"]:
        print(f"{manifest['unreadable']} unreadable files are named in {config.output / 'bad_files.txt'}")
    print(f"written to {config.output}; use it with --data packed:{config.output}")

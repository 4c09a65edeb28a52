"""The work of `python -m experiments.attention`; its options are in experiments/attention.py."""

import numpy as np

from cvjax.errors import DataError
from cvjax.evaluate.shares import in_words
from cvjax.text import printable
from cvjax.workflow.folder import check_output, write_summary
from cvjax.workflow.frozen.attention import draw_panel, draw_video, judge, look
from cvjax.workflow.frozen.encoder import check_sizes, load_vit
from cvjax.workflow.frozen.pictures import check_stems, label_map_for, pictures_in
from experiments.attention import Config


def run(config: Config) -> None:
    """Draw the attention; with --masks, also judge it."""
    paths = [path for given in config.images for path in (pictures_in(given) if given.is_dir() else [given])]
    check_stems(paths)
    check_output(config.output, *(path.parent for path in paths), *([config.masks] if config.masks else []))
    truths = [label_map_for(path, config.masks) for path in paths] if config.masks else [None] * len(paths)
    encoder = load_vit(config)
    size = encoder.image_size if config.image_size is None else config.image_size
    check_sizes(encoder, image_size=size)
    if encoder.model.pool == "avg":
        print("this network averages its patches: nothing uses the output of its class token in the last block")
    frames, scores = [], {}
    for seen, truth in zip(look(encoder, paths, size, config.mass), truths):
        config.output.mkdir(parents=True, exist_ok=True)  # now that there is something to write
        said = ""
        if truth is not None:
            scores[seen.path.stem] = score = judge(seen, truth)
            said = "  no object" if np.isnan(score) else f"  Jaccard {in_words('jaccard', score)}"
        if config.video:
            frames.append(seen)
            print(f"{printable(str(seen.path))}{said}")
        else:
            draw_panel(config.output / f"{seen.path.stem}.png", seen, config.mass)
            print(printable(f"{seen.path}: drawn to {config.output / seen.path.stem}.png{said}"))
    if config.video:
        draw_video(config.output / "attention.gif", frames, config.frames_per_second)
        print(f"drawn to {config.output}/attention.gif")
    if config.masks:
        values = np.array(list(scores.values()))
        if np.isnan(values).all():
            raise DataError(f"--masks {config.masks}: they have no object; objects count from 1, 255 is not judged")
        mean = float(np.nanmean(values))
        print(f"mean over {np.isfinite(values).sum()} pictures: Jaccard {in_words('jaccard', mean)}")
        write_summary(config.output, {"jaccard": mean}, {
            "network": encoder.name, "attention": "class token, last block", "mass": config.mass,
            "jaccard": "best head for each object, mean of the objects of a picture, mean of the pictures",
            "image_size": size, "resized": "whole picture, short side; masks judged at their own size",
            "pictures": int(np.isfinite(values).sum())}, [encoder.origin],
                      pictures=scores)

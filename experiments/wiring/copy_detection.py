"""The work of `python -m experiments.copy_detection`; its options are in experiments/copy_detection.py."""

from cvjax.evaluate.copy_detection import copy_detection, fit_whitening
from cvjax.evaluate.shares import in_words
from cvjax.text import printable
from cvjax.workflow.config import config_errors
from cvjax.workflow.folder import check_output, write_summary
from cvjax.workflow.frozen.copy_detection import describe, originals_of
from cvjax.workflow.frozen.encoder import check_sizes, load_vit, token_protocol
from cvjax.workflow.frozen.pictures import pictures_in
from experiments.copy_detection import Config


def run(config: Config) -> None:
    """Describe, rank and report; print the copies whose originals do not come first."""
    check_output(config.output)
    originals, copies = pictures_in(config.originals), pictures_in(config.copies)
    distractors, others = (pictures_in(folder) if folder else [] for folder in (config.distractors, config.whitening))
    positives = originals_of(copies, originals, config.prefix)
    encoder = load_vit(config)
    size = encoder.image_size if config.image_size is None else config.image_size
    check_sizes(encoder, image_size=size)
    database = describe(encoder, originals + distractors, size, config.batch_size, "originals and distractors")
    queries = describe(encoder, copies, size, config.batch_size, "copies")
    if others:
        whitening = describe(encoder, others, size, config.batch_size, "whitening")
        with config_errors():
            whiten = fit_whitening(whitening, centred=config.centred)
        database, queries = whiten(database), whiten(queries)
    found = copy_detection(queries, database, positives)
    for path, score in zip(copies, found.average_precision):
        if score < 1:
            print(f"{printable(path.name)}: average precision {in_words('ap', score)}")
    print(f"mAP {in_words('map', found.mean_average_precision)} of {len(copies)} copies among {len(originals)} "
          f"originals and {len(distractors)} distractors")
    config.output.mkdir(parents=True, exist_ok=True)
    write_summary(config.output, {"map": found.mean_average_precision}, {
        **found.protocol, **token_protocol(encoder), "descriptor": "class token beside the generalised mean (p = 4) of "
        "the patch tokens", "image_size": size, "resized": "squeezed into a square", "distractors": len(distractors),
        "whitening": len(others), "centred": config.centred, "prefix": config.prefix},
                  [encoder.origin])

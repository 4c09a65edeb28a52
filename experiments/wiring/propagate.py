"""The work of `python -m experiments.propagate`; its options are in experiments/propagate.py."""

from cvjax.evaluate.mask_scores import davis_summary
from cvjax.evaluate.shares import in_words
from cvjax.text import printable
from cvjax.workflow.folder import check_output, print_metrics, write_summary
from cvjax.workflow.frozen.encoder import check_sizes, load_vit, token_protocol
from cvjax.workflow.frozen.propagation import carrier, davis_videos, judge, video_in, write_video
from experiments.propagate import Config


def run(config: Config) -> None:
    """Carry the labels on, draw them, and judge them if the truth is known."""
    if config.davis:
        videos = davis_videos(config.davis)
    else:
        assert config.frames is not None  # checked with the options
        videos = [video_in(config.frames, config.mask, config.truth)]
    check_output(config.output)
    for video in videos:
        check_output(config.output / video.name, video.frames[0].parent, video.mask.parent,
                     *(path.parent for path in video.truths[:1]))
    encoder = load_vit(config, class_token=False)
    check_sizes(encoder, image_size=config.image_size, side_multiple=config.side_multiple)
    options = {name: getattr(config, name) for name in ("image_size", "side_multiple", "queue", "radius", "temperature",
                                                        "top_k")}
    carry, scores = carrier(encoder, **options), []
    for video in videos:
        labels = carry(video)
        write_video(config.output, video, labels, config.frames_per_second)
        said = ""
        if video.truths:
            scores.append(judge(video, labels))
            said = f", J&F {in_words('jf_mean', davis_summary(scores[-1:])['jf_mean'])}"
        print(printable(f"{video.name}: {len(labels)} frames, {labels.max()} objects{said}; "
                        f"written to {config.output / video.name}/ and .gif"))
    if scores:
        metrics = davis_summary(scores)
        print_metrics(metrics)
        write_summary(config.output, metrics, {"task": "DAVIS 2017, semi-supervised, first and last frame not judged",
                                               "videos": [video.name for video in videos], **token_protocol(encoder),
                                               **options}, [encoder.origin])

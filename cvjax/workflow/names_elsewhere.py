"""What options are called in other libraries, for the error about an option that this one does not have."""

from collections.abc import Sequence

from cvjax.spelling import nearest

# Field -> what is told of it besides its name, and its names elsewhere. Of several fields with one such name, the first
# one counts that the configuration has.
ALSO_CALLED: dict[str, tuple[str, str]] = {
    "base_learning_rate": (" (per 256 images)",
        "lr learning-rate blr base-lr lr-base max-lr peak-lr lr-max lr0 initial-lr eta rate"),
    "learning_rates": ("", "lr learning-rate lrs rates"),
    "batch_size": (" (over all devices)",
        "batch bs b batchsize train-batch-size global-batch-size mini-batch-size per-device-train-batch-size "
        "batch-size-per-gpu images-per-batch imgs-per-batch"),
    "weight_decay": ("", "wd weightdecay l2 l2-reg regularization"),
    "epochs": ("", "num-epochs n-epochs epoch max-epochs e train-epochs num-train-epochs"),
    "steps": ("", "max-steps num-steps iterations iters num-iters max-iters total-steps train-steps"),
    "model": ("", "arch architecture net network backbone model-name encoder m a"),
    "data": (" (such as folder:PATH)",
        "data-path data-dir dataset dataset-path dataset-dir train-dir data-root root d input images imagefolder "
        "folder"),
    "run_dir": ("",
        "output-dir out-dir outdir output out o log-dir logdir save-dir work-dir workdir exp-dir results-dir "
        "checkpoint-dir ckpt-dir experiment-dir name run-name"),
    "output": ("", "output-dir out-dir outdir out o save-dir output-path results-dir"),
    "validation": (" (a share of the training images)",
        "val val-split validation-split val-fraction val-ratio valid val-size holdout"),
    "pretrained": (" (a weight file, hf-hub:OWNER/NAME or a run's folder)",
        "weights init init-from finetune initial-checkpoint pretrained-weights checkpoint ckpt load load-from "
        "pretrain"),
    "checkpoint": (" (the folder of a run)",
        "ckpt checkpoint-path ckpt-path resume-from run load from pretrained run-dir model-path c"),
    "weights": ("", "pretrained weights-path"),
    "workers": ("", "num-workers n-workers j nproc data-workers num-threads threads loader-workers"),
    "image_size": ("", "img-size imgsz size resolution input-size crop-size image-resolution res image-side"),
    "crop_size": (" HEIGHT WIDTH", "img-size imgsz size resolution input-size image-size"),
    "canvas": (" HEIGHT WIDTH", "img-size imgsz size resolution input-size image-size"),
    "optimizer": ("", "opt optim optimiser"),
    "schedule": ("", "sched scheduler lr-scheduler lr-schedule lr-policy lr-scheduler-type"),
    "warmup": (" (a share of the steps)", "warmup-epochs warmup-steps warmup-ratio warm-up warmup-iters"),
    "dtype": (" bfloat16", "amp fp16 bf16 half mixed-precision precision use-amp"),
    "accumulate": ("",
        "grad-accum grad-accum-steps gradient-accumulation-steps accum-iter accum-steps accumulate-grad-batches"),
    "fit": (" (micro-batches that fit the memory)",
        "auto-batch-size auto-scale-batch-size find-batch-size auto-find-batch-size micro-batch-size microbatch-size "
        "device-train-microbatch-size"),
    "clip_norm": ("", "clip-grad grad-clip max-grad-norm gradient-clip-val clip-grad-norm max-norm"),
    "ema_decay": ("", "ema model-ema model-ema-decay"),
    "label_smoothing": ("", "smoothing smooth ls"),
    "policy": (" (rand_augment or trivial_augment)", "aa auto-augment randaugment augment augmentation"),
    "erasing": ("", "reprob random-erase random-erasing"),
    "color_jitter": ("", "jitter colour-jitter"),
    "flip": ("", "hflip horizontal-flip"),
    "remat": ("", "gradient-checkpointing grad-checkpointing use-checkpoint checkpointing"),
    "crop_scale": ("", "scale min-scale"),
    "seed": ("", "random-seed random-state rng manual-seed s"),
    "patience": ("", "early-stopping early-stop early-stopping-patience"),
    "eval_every": (" (steps)", "eval-interval val-interval eval-freq eval-steps test-every evaluate-every"),
    "checkpoint_every": (" (steps)", "save-every save-freq save-interval save-steps checkpoint-interval save-period"),
    "log_every": (" (steps)", "log-interval print-freq log-freq logging-steps log-steps"),
    "drop_path": ("", "drop-path-rate stochastic-depth"),
    "dropout": ("", "drop drop-rate dropout-rate"),
    "lora": (" RANK", "lora-rank lora-r peft"),
    "freeze": (" backbone", "freeze-backbone linear-probe frozen"),
    "mesh": ("", "tensor-parallel tp model-parallel"),
    "shard": (" fsdp", "fsdp zero sharding deepspeed"),
    "dry_run": ("", "dryrun n"),
    "overwrite": (" (it deletes the run)", "force f exist-ok restart fresh"),
    "threshold": ("", "conf confidence conf-thres score-threshold"),
    "top": ("", "topk top-k k"),
    "class_names": ("", "classes class-list labels names"),
    "mask_ratio": ("", "mask masking-ratio"),
}
# Names elsewhere of what needs no option here -> why not.
NOT_NEEDED: dict[str, str] = {
    "gpu gpus gpu-id gpu-ids num-gpus n-gpu ngpu device devices device-ids cuda use-cuda use-gpu no-cuda accelerator "
    "cpu tpu tpus platform backend":
        "jax uses all devices that it finds; the variables CUDA_VISIBLE_DEVICES=0 and JAX_PLATFORMS=cpu choose",
    "distributed ddp multi-gpu local-rank rank world-size nnodes nodes num-nodes dist-url dist-backend nproc-per-node "
    "strategy sync-bn syncbn":
        "one process trains on all its devices as on one; for several processes see --coordinator-address",
    "resume auto-resume continue restore reload r":
        "the same command resumes its run",
    "num-classes nb-classes n-classes classes":
        "the data tell how many classes there are",
    "pin-memory pin-mem persistent-workers prefetch-factor channels-last compile torchcompile cudnn-benchmark jit "
    "deterministic":
        "there is nothing to choose here",
    "tensorboard use-tensorboard wandb use-wandb log-wandb":
        "a run's folder has metrics.jsonl, and files for TensorBoard",
    "train do-train do-eval mode task eval evaluate test test-only":
        "each command does one thing; `python -m experiments` lists them",
    "config cfg config-file recipe preset":
        "a preset is the first word after the experiment's name",
}


def unknown_option(flag: str, fields: Sequence[str]) -> str:
    """The error about an option that a configuration with these fields does not have: its name here, or what is near.

    flag: as it was given, with hyphens.
    """
    word = flag.lstrip("-")
    for field, (note, names) in ALSO_CALLED.items():
        if field in fields and word in names.split():
            return f"{flag}: the option is called --{field.replace('_', '-')}{note}"
    for names, why in NOT_NEEDED.items():
        if word in names.split():
            return f"{flag}: it is not needed: {why}"
    near = nearest(word, [field.replace("_", "-") for field in fields])
    hint = f"did you mean {', '.join(f'--{name}' for name in near)}?" if near else "--help-all lists the options"
    return f"unknown option {flag}: {hint}"

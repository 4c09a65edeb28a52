"""Measure what the regions of one image cost under each detector, print a table, and draw it."""


from benchmarks.region_cost.bars import plot_region_costs
from benchmarks.region_cost.config import Config
from benchmarks.region_cost.detectors import markdown, region_costs, scene_with_regions
from cvjax.text import write_text
from cvjax.train.preemption import StopRequest
from cvjax.workflow.folder import RunFolder


def run(config: Config, folder: RunFolder, stop: StopRequest) -> None:
    """Measure, print, write and draw, into the run's folder."""
    print(f"region_cost of {config.backbone} for {config.regions:,} regions of {config.image_size}x{config.image_size} "
          "pixels")
    if config.dry_run:
        return
    image, regions, found, seconds = scene_with_regions(config.image_size, config.regions)
    costs = []
    for cost in region_costs(image, regions, config.backbone, own_regions=config.own_regions,
                             fc_width=config.fc_width, measured=config.measured, repeats=config.repeats):
        print(f"  {cost.method} measured", flush=True)
        costs.append(cost)
    table = markdown(costs, seconds)
    print(table, end="")
    folder.begin()
    write_text(folder.path / "region_cost.md", table)
    rows = [f"{cost.method}, {cost.regions:,}" for cost in costs]
    plot_region_costs(folder.figures / "region_cost.png", rows, {
        "GFLOPs": [cost.flops / 1e9 for cost in costs],
        f"CPU seconds, less {seconds:.1f} of selective search": [cost.cpu_seconds for cost in costs],
        f"working MiB (R-CNN: {config.measured} at a time)": [cost.work_bytes / 2**20 for cost in costs]},
        title=f"One forward pass with {config.backbone}, image of {config.image_size}x{config.image_size}, "
              "by method and regions")
    kinds = {"gflops": lambda cost: cost.flops / 1e9, "map_gflops": lambda cost: cost.map_flops / 1e9,
             "seconds": lambda cost: cost.seconds, "cpu_seconds": lambda cost: cost.cpu_seconds,
             "work_mib": lambda cost: cost.work_bytes / 2**20}
    metrics = {f"{kind}/{cost.method}/{cost.regions}": value(cost) for kind, value in kinds.items() for cost in costs}
    folder.finish(metrics | {"cpu_seconds/selective search": seconds},
                  {"images": 1, "repeats": config.repeats, "rcnn_measured_regions": config.measured,
                   "regions_of_selective_search": found})

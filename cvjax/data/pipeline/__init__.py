"""From records to batches, by Grain: shuffled without end for training, in order and complete for evaluation.

- `order`: which record stands at which position of the stream;
- `reading`: from a position to an example, or to its replacement;
- `workers`: Grain's streams, threads and processes;
- `training`, `evaluation`: the batches.

The whole position of a training stream is one integer, the number of batches drawn. Record order and random
crops depend on nothing but the seed and that position, never on threads, workers or the number of processes.

With P processes, process p holds the p-th of P equal parts of each global training batch. One after the other, the
parts are the batch of a single process. Of each evaluation batch, process p holds rows p, p + P, p + 2P, ...
"""

from cvjax.data.pipeline.evaluation import eval_batches
from cvjax.data.pipeline.order import Order
from cvjax.data.pipeline.reading import Crop
from cvjax.data.pipeline.training import Stream, TrainBatches

__all__ = ["Crop", "Order", "Stream", "TrainBatches", "eval_batches"]

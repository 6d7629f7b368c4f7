"""Several processes (torch.distributed): one calibrates, all get its layers."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn


def broadcast_layers_(model: nn.Module, source: int = 0) -> None:
    """Give every process the state of `source`'s model: centroids, tables, input scales, all parameters and buffers.

    Call it after quantize_ or reconstruct_ on `source` and quantize_ without calibration on the others, before the
    model goes into DistributedDataParallel and before its optimizer is made. Nothing happens without a process group.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    box = [model.state_dict() if dist.get_rank() == source else None]
    dist.broadcast_object_list(box, source)
    if dist.get_rank() != source:
        state = box[0]
        assert state is not None
        model.load_state_dict(state)

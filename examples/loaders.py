"""Data sets for the examples, from the layouts they are published in or from the packs in LUTC_DATA."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CIFAR_MEAN, CIFAR_STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def data_folder(given: Path | None) -> Path:
    """The --data option, else LUTC_DATA."""
    folder = given or (Path(os.environ["LUTC_DATA"]) if "LUTC_DATA" in os.environ else None)
    if folder is None or not folder.is_dir():
        raise SystemExit("error: no data: name a folder with --data, or in the environment variable LUTC_DATA")
    return folder


def cifar10(folder: Path, split: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """uint8 images [N, 3, 32, 32] and int64 labels [N] of "train" or "test".

    The folder holds `cifar10-SPLIT.npz` (JPEG pack), the binary version (`data_batch_1.bin`, .., `test_batch.bin`), or
    one folder of pictures per class (`SPLIT/airplane/0001.png`).
    """
    for name in ("cifar-10-batches-bin", "."):
        pattern = "data_batch_?.bin" if split == "train" else "test_batch.bin"
        files = sorted((folder / name).glob(pattern))
        if files:
            rows = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files])[:limit]
            images = rows[:, 1:].reshape(-1, 3, 32, 32)
            return torch.from_numpy(images.copy()), torch.from_numpy(rows[:, 0].astype(np.int64))
    pack = folder / f"cifar10-{split}.npz"
    if pack.exists():
        return _jpeg_pack(pack, limit)
    if (folder / split / CIFAR_CLASSES[0]).is_dir():
        return _picture_folders(folder / split, limit)
    raise SystemExit(f"error: {folder} holds no CIFAR-10 {split} set that this script can read")


def _jpeg_pack(path: Path, limit: int | None) -> tuple[Tensor, Tensor]:
    from PIL import Image

    with np.load(path) as pack:
        header, scans = pack["header"].tobytes(), pack["scans"].tobytes()
        sizes, labels = pack["sizes"][:limit].tolist(), pack["labels"][:limit].astype(np.int64)
    images = np.empty((len(sizes), 32, 32, 3), np.uint8)
    at = 0
    for index, size in enumerate(sizes):
        images[index] = np.asarray(Image.open(io.BytesIO(header + scans[at : at + size] + b"\xff\xd9")))
        at += size
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)


def _picture_folders(folder: Path, limit: int | None) -> tuple[Tensor, Tensor]:
    from PIL import Image

    files = [(file, label) for label, name in enumerate(CIFAR_CLASSES) for file in sorted((folder / name).iterdir())]
    order = np.random.default_rng(0).permutation(len(files))[:limit]
    images = np.stack([np.asarray(Image.open(files[i][0]).convert("RGB")) for i in order])
    labels = torch.tensor([files[i][1] for i in order])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels


def cifar10_normalised(images: Tensor) -> Tensor:
    """uint8 [N, 3, 32, 32] -> float32, less the mean, over the deviation."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (CIFAR_MEAN, CIFAR_STD))
    return (images.float() / 255 - mean) / std


def cifar10_distorted(images: Tensor) -> Tensor:
    """Each image mirrored with chance 1/2 and shifted by up to 4 pixels; uint8 in, normalised float32 out."""
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(cifar10_normalised(images), (4, 4, 4, 4), mode="reflect")
    rows = torch.randint(0, 9, (count, 1)) + torch.arange(height)
    columns = torch.randint(0, 9, (count, 1)) + torch.arange(width)
    flip = torch.rand(count, 1) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    each = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2).contiguous()

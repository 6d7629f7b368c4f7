"""Data sets for the examples, from the layouts they are published in or from the packs in LUTC_DATA."""

from __future__ import annotations

import io
import os
import pickle
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

    The folder holds `cifar10-SPLIT.npz` (JPEG pack), the binary version (`data_batch_1.bin`, .., `test_batch.bin`), the
    Python version (`data_batch_1`, .., `test_batch`), each by itself or in the folder of its archive, or one folder of
    pictures per class (`SPLIT/airplane/0001.png`).
    """
    for name in ("cifar-10-batches-bin", "."):
        pattern = "data_batch_?.bin" if split == "train" else "test_batch.bin"
        files = sorted((folder / name).glob(pattern))
        if files:
            rows = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files])[:limit]
            images = rows[:, 1:].reshape(-1, 3, 32, 32)
            return torch.from_numpy(images.copy()), torch.from_numpy(rows[:, 0].astype(np.int64))
    for name in ("cifar-10-batches-py", "."):
        files = sorted((folder / name).glob("data_batch_?" if split == "train" else "test_batch"))
        if files:
            batches = [_Arrays(io.BytesIO(file.read_bytes()), encoding="bytes").load() for file in files]
            images = np.concatenate([batch[b"data"] for batch in batches])[:limit].reshape(-1, 3, 32, 32)
            labels = np.concatenate([batch[b"labels"] for batch in batches])[:limit]
            return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))
    pack = folder / f"cifar10-{split}.npz"
    if pack.exists():
        return _jpeg_pack(pack, limit)
    if (folder / split / CIFAR_CLASSES[0]).is_dir():
        return _picture_folders(folder / split, limit)
    raise SystemExit(f"error: {folder} holds no CIFAR-10 {split} set that this script can read")


class _Arrays(pickle.Unpickler):
    """Reads containers, strings, numbers and arrays; pickles of anything else could run code."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")):
            return super().find_class(module, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.ndarray.__new__
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a data set")


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
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (CIFAR_MEAN, CIFAR_STD))
    return (images.float() / 255 - mean) / std


def cifar10_distorted(images: Tensor) -> Tensor:
    """Each image mirrored with chance 1/2 and shifted by up to 4 pixels; uint8 in, normalised float32 out."""
    (count, _, height, width), device = images.shape, images.device
    padded = torch.nn.functional.pad(cifar10_normalised(images), (4, 4, 4, 4), mode="reflect")
    rows = torch.randint(0, 9, (count, 1), device=device) + torch.arange(height, device=device)
    columns = torch.randint(0, 9, (count, 1), device=device) + torch.arange(width, device=device)
    flip = torch.rand(count, 1, device=device) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    each = torch.arange(count, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2).contiguous()


SPEECH_CLASSES = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_"]
FRAMES, BANDS = 49, 40
_RATE, _WINDOW, _HOP, _SPECTRUM = 16000, 480, 320, 512


def speech_commands(folder: Path, limit: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(train features [N, 1, 49, 40], train labels, test features, test labels): log-mel energies, 12 classes.

    The folder holds `speech12.npz` (features as 8-bit codes, split by speaker), or the published data set: a folder of
    .wav files per word, `testing_list.txt`, and `_background_noise_`, from which silence is cut. Recordings in
    `validation_list.txt` are left out, and the others come in random order, the same every time.
    """
    pack = folder / "speech12.npz"
    if pack.exists():
        with np.load(pack) as stored:
            features = stored["codes"].astype(np.float32) / 10.0 - 14.0
            labels, held_out = stored["labels"].astype(np.int64), stored["test"].astype(bool)
    elif (folder / "testing_list.txt").exists():
        features, labels, held_out = _speech_folders(folder)
    else:
        raise SystemExit(f"error: {folder} holds no Speech Commands that this script can read")
    parts = []
    for part in (~held_out, held_out):
        parts += [torch.from_numpy(features[part][:limit, None]), torch.from_numpy(labels[part][:limit])]
    return parts[0], parts[1], parts[2], parts[3]


def _speech_folders(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recordings of the ten words, as many of all other words together as of one word, and as much silence."""
    held_out = set((folder / "testing_list.txt").read_text().split())
    validation = folder / "validation_list.txt"
    left_out = set(validation.read_text().split()) if validation.exists() else set()
    words = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("_"))
    rng = np.random.default_rng(0)
    files = {
        word: [file for file in sorted((folder / word).glob("*.wav")) if f"{word}/{file.name}" not in left_out]
        for word in words
    }
    others = [file for word in words if word not in SPEECH_CLASSES for file in files[word]]
    each = max(sum(len(files[word]) for word in words if word in SPEECH_CLASSES) // 10, 1)
    chosen = [(file, SPEECH_CLASSES.index(word)) for word in words if word in SPEECH_CLASSES for file in files[word]]
    chosen += [(others[i], 11) for i in rng.permutation(len(others))[:each]]
    features = [_log_mel(_sound(file)) for file, _ in chosen]
    labels = [label for _, label in chosen]
    test = [f"{file.parent.name}/{file.name}" in held_out for file, _ in chosen]
    noises = sorted((folder / "_background_noise_").glob("*.wav"))
    for noise in noises:
        samples = _sound(noise, None)
        edge = len(samples) - max(len(samples) // 10, _RATE)  # the end is for the test alone
        for index in range(max(each // len(noises), 1)):
            test.append(index % 10 == 0)
            stretch = samples[max(edge, 0) :] if test[-1] else samples[: max(edge, 1)]
            start = rng.integers(0, max(len(stretch) - _RATE, 1))
            features.append(_log_mel(_one_second(stretch[start:]) * rng.uniform(0, 1)))
            labels.append(10)
    order = rng.permutation(len(features))
    return np.stack(features)[order], np.array(labels, np.int64)[order], np.array(test)[order]


def _sound(file: Path, length: int | None = _RATE) -> np.ndarray:
    """Samples of a 16-bit mono .wav in -1..1."""
    import wave

    with wave.open(str(file)) as reader:
        samples = np.frombuffer(reader.readframes(reader.getnframes()), "<i2").astype(np.float32) / 32768
    return samples if length is None else _one_second(samples)


def _one_second(samples: np.ndarray) -> np.ndarray:
    return np.pad(samples[:_RATE], (0, max(_RATE - len(samples), 0)))


def _log_mel(sound: np.ndarray) -> np.ndarray:
    """One second -> [49, 40]: 30 ms Hann windows every 20 ms, triangular mel bands from 20 to 7600 Hz, natural log."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, _WINDOW)[::_HOP][:FRAMES]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    power = np.abs(np.fft.rfft(frames * window, _SPECTRUM)) ** 2
    top, bottom = (2595 * np.log10(1 + hertz / 700) for hertz in (7600, 20))
    edges = 700 * (10 ** (np.linspace(bottom, top, BANDS + 2) / 2595) - 1)
    hertz = np.arange(_SPECTRUM // 2 + 1)[:, None] * _RATE / _SPECTRUM
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return np.log(power @ np.clip(np.minimum(rising, falling), 0, None) + 1e-6).astype(np.float32)


def sentences(
    folder: Path, task: str, split: str, limit: int | None = None
) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """Sentences (or pairs) and labels of a tab-separated file with a header line: GLUE's SST-2 or STS-B.

    The folder holds `sst2-dev.tsv` and the like, or GLUE's own `SST-2/dev.tsv` and `STS-B/dev.tsv`.
    """
    names = {"sst2": ("SST-2", ("sentence",), "label"), "stsb": ("STS-B", ("sentence1", "sentence2"), "score")}
    published, columns, label = names[task]
    path = next((p for p in (folder / f"{task}-{split}.tsv", folder / published / f"{split}.tsv") if p.exists()), None)
    if path is None:
        raise SystemExit(f"error: {folder} holds no {published} {split} set that this script can read")
    # not splitlines, which breaks lines at other characters too
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    header, *rows = (line.split("\t") for line in lines)
    rows = rows[:limit]
    texts = [tuple(row[header.index(column)] for column in columns) for row in rows]
    return texts, np.array([float(row[header.index(label)]) for row in rows])

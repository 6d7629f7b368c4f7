"""Codebook files (.safetensors): the codebooks of many layers under their names.

Per layer NAME: tensors "NAME.centroids" float32 [C, K, V] and, for int8 encode, "NAME.inv_scale" float32 [C]; where
distances are not Euclidean "NAME.metric" float32 [C, V, V]; for trees "NAME.split_dims" int32 [C, L] and
"NAME.split_thresholds" float32 [C, K - 1]. The metadata holds "format", "format_version" and "config", a JSON object
{NAME: {encode_dtype, encoder, ...}}.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from lutc.errors import ModelImportError
from lutc.files import check_file, check_writable
from lutc.importers.codebook import Codebook
from lutc.importers.names import did_you_mean

__all__ = ["FORMAT", "FORMAT_VERSION", "Codebook", "Codebooks"]

FORMAT = "lutc-codebooks"
FORMAT_VERSION = 1
_PARTS = ("centroids", "inv_scale", "metric", "split_dims", "split_thresholds")
_OPTIONS = {"encode_dtype": str, "encoder": str, "table_dtype": str, "input_signed": bool}


class Codebooks(Mapping[str, Codebook]):
    """Layer name -> Codebook, in the order given."""

    def __init__(self, codebooks: Iterable[Codebook] = ()) -> None:
        self._by_name = {codebook.name: codebook for codebook in codebooks}

    def __getitem__(self, name: str) -> Codebook:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"Codebooks({', '.join(self) or 'empty'})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file in one step: a killed save leaves nothing half-written. Equal codebooks give equal bytes.

        Raises
        ------
        ModelImportError : the folder does not exist or cannot be written.
        """
        target = check_writable(path, ModelImportError)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(self._to_bytes())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codebooks:
        """Read and check a codebook file.

        Raises
        ------
        ModelImportError : the file is missing, is not a codebook file, is from a newer format, or holds bad values.
        """
        tensors, metadata = _read(Path(path))
        config = _config(metadata, str(path))
        _check_tensor_names(tensors, config, str(path))
        try:
            return cls(_codebook(name, options, tensors) for name, options in config.items())
        except ModelImportError as error:
            raise ModelImportError(
                error.message, where=f"{path}, {error.where}", reason=error.reason, fix=error.fix
            ) from error

    def check_layers(self, names: Iterable[str]) -> None:
        """Raise ModelImportError when a codebook belongs to no layer of ``names``, offering the nearest names."""
        known = list(names)
        unknown = [name for name in self if name not in set(known)]
        if not unknown:
            return
        lines = [f'"{name}"' + did_you_mean(name, known) for name in unknown]
        raise ModelImportError(
            "the codebooks name layers that the model does not have",
            where=", ".join(f'"{name}"' for name in unknown),
            reason="no conv or dense layer of the model is called\n" + "\n".join(lines),
            fix="make the names equal; the model's layers are: " + (", ".join(known) or "none"),
        )

    def _to_bytes(self) -> bytes:
        tensors: dict[str, np.ndarray] = {}
        for name, codebook in self.items():
            for part in _PARTS:
                value = getattr(codebook, part)
                if value is not None:
                    tensors[f"{name}.{part}"] = np.ascontiguousarray(value)
        config = {name: {option: getattr(codebook, option) for option in _OPTIONS} for name, codebook in self.items()}
        metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "config": json.dumps(config)}
        return _with_metadata(safetensors.numpy.save(tensors), metadata)


def _with_metadata(data: bytes, metadata: dict[str, str]) -> bytes:
    """Add metadata to a serialized safetensors file; the library itself writes its keys in random order."""
    (length,) = struct.unpack_from("<Q", data)
    header = {"__metadata__": metadata} | json.loads(data[8 : 8 + length])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    path = check_file(path, (".safetensors",), what="the codebook file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
        raise ModelImportError(
            "cannot read the codebook file",
            where=str(path),
            reason="it is not a whole safetensors file",
            fix="write it again with `lutc calibrate` or Codebooks.save",
        ) from error


def _config(metadata: dict[str, str], where: str) -> dict[str, dict[str, object]]:
    if metadata.get("format") != FORMAT:
        raise ModelImportError(
            "this safetensors file holds no codebooks",
            where=where,
            reason=f'its metadata has format {metadata.get("format")!r}, not "{FORMAT}"',
            fix="give a file written by `lutc calibrate` or Codebooks.save; model weights do not go here",
        )
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise ModelImportError(
            "this codebook file has a format this version does not read",
            where=where,
            reason=f"its format_version is {metadata.get('format_version')}, this version reads {FORMAT_VERSION}",
            fix="upgrade lutc, or write the file again with this version",
        )
    try:
        config = json.loads(metadata.get("config", ""))
        for name, options in config.items():
            _check_options(name, options)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelImportError(
            "the codebook file's config cannot be read",
            where=f"{where}, metadata key config",
            reason=str(error),
            fix=f"it must be a JSON object {{layer: {{{', '.join(_OPTIONS)}}}}}",
        ) from error
    return config


def _check_options(name: str, options: dict[str, object]) -> None:
    for option, kind in _OPTIONS.items():
        if not isinstance(options.get(option), kind):
            raise ValueError(f'layer "{name}": {option} is {options.get(option)!r}, expected a {kind.__name__}')
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise ValueError(f'layer "{name}": unknown option {", ".join(unknown)}')


def _check_tensor_names(tensors: Mapping[str, np.ndarray], config: Iterable[str], where: str) -> None:
    layers = list(config)
    allowed = {f"{name}.{part}" for name in layers for part in _PARTS}
    stray = sorted(set(tensors) - allowed)
    missing = sorted({f"{name}.centroids" for name in layers} - set(tensors))
    if stray or missing:
        told = [f"tensor {name} belongs to no layer of its config" for name in stray]
        told += [f"tensor {name} is missing" for name in missing]
        raise ModelImportError(
            "the codebook file's tensors and config disagree",
            where=where,
            reason="\n".join(told),
            fix='store "LAYER.centroids" (and "LAYER.inv_scale" for int8 encode) for every layer of the config',
        )


def _codebook(name: str, options: Mapping[str, object], tensors: Mapping[str, np.ndarray]) -> Codebook:
    centroids, *others = (tensors.get(f"{name}.{part}") for part in _PARTS)
    return Codebook(name, centroids, **dict(zip(_PARTS[1:], others, strict=True)), **options)

"""What a file holds, without running it: an artifact, a model, or codebooks. Loads neither TVM nor torch."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lutc.errors import ModelImportError
from lutc.files import check_file
from lutc.report.base import Column, Report, TensorInfo
from lutc.report.text import format_bytes

if TYPE_CHECKING:
    from lutc.artifact.manifest import LayerRow

_SUFFIXES = (".onnx", ".safetensors", ".pt2")
_TITLES = {
    "name": "layer",
    "op": "op",
    "kind": "kind",
    "num_centroids": "K",
    "subvector_len": "V",
    "num_codebooks": "C",
    "inputs": "inputs",
    "outputs": "outputs",
    "encoder": "encoder",
    "encode_dtype": "encode",
    "table_dtype": "table",
    "input_levels": "input levels",
    "weight_levels": "weight levels",
    "weight_bits": "weight bits",
    "level_error": "level error",
    "inv_scale": "inv scale",
    "input_low": "lowest",
    "input_high": "highest",
    "table_bits": "bits",
    "table_error": "added error",
    "bytes": "size",
    "kernel": "kernel",
    "schedule": "schedule",
    "reason": "stays float because",
}


@dataclass
class InspectReport(Report):
    """Rows: one a dense or conv layer; `bytes` is that of its tables, weights or centroids.

    A row holds those of name, op, kind ("lut", "integer", "levels" or "float"), num_centroids (K), subvector_len (V),
    num_codebooks (C), inputs, outputs, encoder, encode_dtype, table_dtype, bytes, kernel, schedule and reason that its
    file tells;
    where the table was narrowed for the target table_bits and table_error, and of an integer layer input_levels,
    weight_levels, weight_bits and level_error, with inv_scale, input_low and input_high where it was float in the model
    (see `lutc.artifact.manifest.LayerRow`).
    """

    details: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    kind: ClassVar[str] = "inspect"

    def columns(self) -> Sequence[Column]:
        hidden = {"encoder"} if all(row.get("encoder") in (None, "l2") for row in self.rows) else set()
        if not any(row.get("inv_scale") for row in self.rows):
            hidden |= {"inv_scale", "input_low", "input_high"}
        return [Column(key, title) for key, title in _TITLES.items() if key not in hidden]

    def facts(self) -> Mapping[str, Any]:
        return self.details

    def notes(self) -> Sequence[str]:
        return self.remarks


def inspect(path: str | Path) -> InspectReport:
    """Describe an artifact folder, an .onnx model, a .safetensors codebook file or a .pt2 program.

    Raises ArtifactError for a damaged artifact, ModelImportError for any other file that is missing or damaged.
    """
    path = Path(path)
    if path.is_dir() or path.suffix == ".lutc":
        return _inspect_artifact(path)
    check_file(path, _SUFFIXES, what="the file")
    readers = {".onnx": _inspect_onnx, ".safetensors": _inspect_codebooks, ".pt2": _inspect_pt2}
    return readers[path.suffix](path)


def _inspect_artifact(path: Path) -> InspectReport:
    from lutc.artifact.store import read_artifact

    artifact = read_artifact(path)
    manifest = artifact.manifest
    target = manifest.target
    details = {
        "file": str(path),
        "format": f"artifact, format {manifest.format_version}",
        "size_bytes": artifact.size_bytes,
        "files_bytes": {name: (path / name).stat().st_size for name in manifest.files},
        "workspace_bytes": manifest.workspace_bytes,
        "source": manifest.source.file,
        "source_sha256": manifest.source.sha256,
        "target": target.name,
        "code": " ".join([target.triple, target.cpu, *target.attrs]),
        "needs": list(target.requires),
        "inputs": [TensorInfo(spec.name, spec.dtype, spec.sizes) for spec in manifest.inputs],
        "outputs": [TensorInfo(spec.name, spec.dtype, spec.sizes) for spec in manifest.outputs],
        **({"dimensions": [str(dimension) for dimension in manifest.dimensions]} if manifest.dimensions else {}),
        "linker": manifest.linker,
        "made_with": dict(manifest.versions),
        "created": manifest.created,
    }
    rows = [_layer_row(row) for row in manifest.layers]
    tables = sum(row.table_bytes for row in manifest.layers)
    remark = f"{_count(rows)}, {format_bytes(tables)} of tables. All files are as they were written."
    return InspectReport(rows, details, [remark])


def _layer_row(row: LayerRow) -> dict[str, Any]:
    fields = {key: getattr(row, key) or None for key in row.__struct_fields__ if key != "table_bytes"}
    if not row.table_error:
        fields |= {"table_bits": None, "table_error": None}
    return {**fields, "bytes": row.table_bytes or None}


def _inspect_onnx(path: Path) -> InspectReport:
    from lutc.importers.onnx_file import load_onnx
    from lutc.report.onnx_layers import describe_model, list_layers

    model = load_onnx(path)
    rows = list_layers(model)
    details = {"file": str(path), "format": "ONNX", "size_bytes": path.stat().st_size, **describe_model(model)}
    if any(row["kind"] in ("lut", "levels") for row in rows):
        advice = f"Next: lutc compile {path}"
    else:
        advice = f"To turn layers into tables: lutc calibrate {path} --data inputs.npz -o codebooks.safetensors"
    return InspectReport(rows, details, [f"{_count(rows)}. {advice}"])


def _count(rows: Sequence[Mapping[str, Any]]) -> str:
    lut = sum(row["kind"] == "lut" for row in rows)
    integer = sum(row["kind"] == "integer" for row in rows)
    levels = sum(row["kind"] == "levels" for row in rows)
    more = (f", {integer} are integer" if integer else "") + (
        f", {levels} have weights of few levels" if levels else ""
    )
    return f"{lut} of {len(rows)} layers are lookup tables{more}"


def _inspect_codebooks(path: Path) -> InspectReport:
    from lutc.importers.codebooks import Codebooks

    rows = [
        {
            "name": name,
            "kind": "codebooks",
            "num_centroids": codebook.num_centroids,
            "subvector_len": codebook.subvector_len,
            "num_codebooks": codebook.num_codebooks,
            "encoder": codebook.encoder,
            "encode_dtype": codebook.encode_dtype,
            "table_dtype": codebook.table_dtype,
            "bytes": codebook.centroids.nbytes,
        }
        for name, codebook in Codebooks.load(path).items()
    ]
    details = {"file": str(path), "format": "codebooks", "size_bytes": path.stat().st_size}
    return InspectReport(rows, details, [f"Next: lutc compile MODEL --codebooks {path}"])


def _inspect_pt2(path: Path) -> InspectReport:
    if not zipfile.is_zipfile(path):
        raise ModelImportError(
            "cannot read the file",
            where=str(path),
            reason="it is not a .pt2 file (a zip archive), or it is cut short",
            fix="write it again with torch.export.save or lutc.export_model",
        )
    details = {
        "file": str(path),
        "format": "PyTorch exported program (.pt2)",
        "size_bytes": path.stat().st_size,
    }
    return InspectReport([], details, [f"Its layers are read by: lutc compile {path}"])

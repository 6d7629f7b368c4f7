"""An imported model: its Relax module and what is known about where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lutc.artifact.manifest import TensorSpec

if TYPE_CHECKING:
    from lutc.importers.codebooks import Codebooks


@dataclass(frozen=True, eq=False)
class Model:
    """What `import_model` returns and `compile` takes.

    Parameters
    ----------
    mod : tvm.IRModule with a Relax function "main" of static shapes. Annotated layers are R.lut.dense / R.lut.conv2d
        calls with their name in the attribute `layer`; float conv and dense calls carry theirs in `span.source_name`.
    source : the file's path, or what the model was given as, for error messages and the manifest.
    source_sha256 : hex digest of that file (and its external data), or of the parameters and graph of a live model.
    inputs, outputs : names, dtypes and shapes in the order of "main".
    codebooks : codebooks of the float layers that shall become tables, or None.
    nodes : layer name -> `node 47 (Conv "layer2.0.conv1")`, to tell where a layer is in the source.
    """

    mod: Any
    source: str
    source_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    codebooks: Codebooks | None = None
    nodes: Mapping[str, str] = field(default_factory=dict)

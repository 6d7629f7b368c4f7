"""The passes, one a file, in the order the pipeline runs them."""

from tvm_ext.transform._rewrite import add_layer_rows, layer_rows
from tvm_ext.transform.convert_conv_layout import ConvertConvLayout
from tvm_ext.transform.decompose_lut import DecomposeLUT
from tvm_ext.transform.expose_inputs import expose_inputs
from tvm_ext.transform.fold_permuted_constants import FoldPermutedConstants
from tvm_ext.transform.fold_scale_into_table import FoldScaleIntoTable
from tvm_ext.transform.fold_sizes import FoldSizes
from tvm_ext.transform.fuse_input_quantization import FuseInputQuantization
from tvm_ext.transform.fuse_lut_epilogue import FuseLUTEpilogue
from tvm_ext.transform.layer_shapes import LayerSize, layer_shapes
from tvm_ext.transform.legalize_float import LegalizeFloat
from tvm_ext.transform.lift_constants import lift_constants
from tvm_ext.transform.list_layers import list_layers
from tvm_ext.transform.mask_padding import MaskPadding
from tvm_ext.transform.pack_lut_constants import PackLUTConstants
from tvm_ext.transform.pack_quantized import PackQuantized
from tvm_ext.transform.padding_sites import PaddingError, Site, padding_sites
from tvm_ext.transform.planned_memory import planned_memory
from tvm_ext.transform.prefetch_tables import PrefetchTables
from tvm_ext.transform.prefetch_weights import PrefetchWeights
from tvm_ext.transform.quantize_remainder import QuantizeRemainder, RemainderLayer, remainder_layers
from tvm_ext.transform.reuse_codes import ReuseCodes
from tvm_ext.transform.rewrite_conv2d_to_lut import RewriteConv2dToLUT
from tvm_ext.transform.rewrite_dense_to_lut import RewriteDenseToLUT
from tvm_ext.transform.rewrite_quantized_to_integer import RewriteQuantizedToInteger
from tvm_ext.transform.vectorize_elementary import VectorizeElementary
from tvm_ext.transform.whole_vectors import WholeVectors

__all__ = [
    "ConvertConvLayout",
    "DecomposeLUT",
    "FoldPermutedConstants",
    "FoldScaleIntoTable",
    "FoldSizes",
    "FuseInputQuantization",
    "FuseLUTEpilogue",
    "LayerSize",
    "LegalizeFloat",
    "MaskPadding",
    "PackLUTConstants",
    "PackQuantized",
    "PaddingError",
    "PrefetchTables",
    "PrefetchWeights",
    "QuantizeRemainder",
    "RemainderLayer",
    "ReuseCodes",
    "RewriteConv2dToLUT",
    "RewriteDenseToLUT",
    "RewriteQuantizedToInteger",
    "Site",
    "VectorizeElementary",
    "WholeVectors",
    "add_layer_rows",
    "expose_inputs",
    "layer_rows",
    "layer_shapes",
    "lift_constants",
    "list_layers",
    "padding_sites",
    "planned_memory",
    "remainder_layers",
]

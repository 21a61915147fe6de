"""Every decoding method, by layer. A new method is one file and one line here."""

from collections.abc import Mapping
from typing import Final, get_args

from decoders.cache.kvmerger import KVMerger
from decoders.cache.snapkv import SnapKV
from decoders.cache.streaming import Streaming
from decoders.logits.dynamic_fusion import DynamicFusion
from decoders.logits.genarm import GenArm
from decoders.logits.inverse_value import InverseValue
from decoders.logits.linear import Linear
from decoders.method import Method
from decoders.sequence.auto import Auto
from decoders.sequence.best_of_n import BestOfN
from decoders.sequence.conformal import Conformal
from decoders.sequence.ead import EntropyAdaptive
from decoders.sequence.equilibrium import Equilibrium
from decoders.sequence.majority import Majority
from decoders.sequence.mbr import Mbr
from decoders.sequence.plain import Plain
from decoders.sequence.residual_ebm import ResidualEbm
from decoders.sequence.speculative import Speculative

LAYERS: Final = ("sequence", "logits", "cache")

METHODS: Final[list[type[Method]]] = [
    Plain,
    EntropyAdaptive,
    Auto,
    Speculative,
    Equilibrium,
    BestOfN,
    Majority,
    Mbr,
    ResidualEbm,
    Conformal,
    GenArm,
    Linear,
    DynamicFusion,
    InverseValue,
    KVMerger,
    SnapKV,
    Streaming,
]


def name(cls: type[Method]) -> str:
    """The literal that selects the method in a request."""
    return str(get_args(cls.model_fields["method"].annotation)[0])


def methods(layer: str) -> Mapping[str, type[Method]]:
    """The methods of one layer, by name, in the order they are registered."""
    return {name(cls): cls for cls in METHODS if cls.layer == layer}

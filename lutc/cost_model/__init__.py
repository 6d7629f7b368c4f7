"""What a lookup-table operator could take at best on a CPU, from the throughput of the instructions it is made of.

And what its machine code would take on an AArch64 core that is not here: `lutc.cost_model.simulate`.
"""

from lutc.cost_model.bound import Bound, LayerShape, bound
from lutc.cost_model.peak import Peak, find_peak

__all__ = ["Bound", "LayerShape", "Peak", "bound", "find_peak"]

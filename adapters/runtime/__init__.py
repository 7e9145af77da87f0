"""What a worker imports to run its part of a plan: neither solvers nor torch.export."""

#: How numbers may cross; `adapters.runtime.wire` makes them so. Here, since commands offer them before torch is there.
WIRES = ("native", "float16", "int8")

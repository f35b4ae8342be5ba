"""steps: what the fused decode step launches for each mixer, one file a mixer and one row a kind of block.

A file says why its kernels cannot run a block, and plans their launches: a chain of stages (``model.chain``) from the
residual stream to what the output projection reads. Kernels are imported where they are planned, since they need
triton, and the reasons do not.
"""

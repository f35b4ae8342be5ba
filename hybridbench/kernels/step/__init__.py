"""step: the kernels of one decode step of a whole model.

A decode step multiplies a few rows (one per sequence) by every weight once, so the bandwidth is its floor. What keeps a
step from it is the number of kernels: each starts up, finishes, and waits for the one before. Here each matrix product
is fused with everything around it, and a mixer and its MLP take five kernels, with low ranks one or two more:

    attention:        norm + QKV + rotary + cache write     | split-KV attention, combined | O + residual
    Mamba-2:          norm + in_proj + conv update          | state update + gate          | norm + out_proj + residual
    gated delta:      norm + q, k, v, gates + conv update   | state update + norm + gate   | out_proj + residual
    KDA:              as gated delta | second products      | state update + norm + gate   | out_proj + residual
    lightning:        norm + q, k, v, gate + silu           | state update + gate          | norm + out_proj + residual
    Mamba-3:          norm + in_proj                        | turns + state update + gate  | out_proj + residual
    RWKV-7:           norm + token shift | r, k, v, low ranks | second products
                                                            | state update + norm + gate   | out_proj + residual
    Mamba-1:          norm + in_proj + conv update | x_proj | dt + state update + gate     | out_proj + residual
    MLP:              norm + gate and up + SwiGLU           | down + residual

Second products of low rank (KDA's gate and decay, RWKV-7's four) are one launch. Mamba-1's, dt, is part of the state's
update: a program loads its channels' rows of the weight before it waits. Where programs are more than fit at once, one
takes several sequences, so that these rows are loaded once for all of them.

A norm costs nothing here. The kernel that writes the residual stream x also writes x times the next norm's weight and
the sum of squares of its part. The next product multiplies by rsqrt(mean) once, at its end, since a norm scales a whole
row. Narrow products split K over programs. The last program of a tile to finish adds the parts, always in the same
order, so that a step gives the same bits every time.

With ``PDL`` (programmatic dependent launch, Hopper and later) a kernel's programs start while the previous kernel still
runs. They load what that kernel does not write (their first weights, states, the residual) before they wait for its
results.

Rows of activations are (B, width). Importing these modules needs triton; their tests run on a CPU in triton's
interpreter. The reference implementation of the whole step is ``LanguageModel.decode``.
"""

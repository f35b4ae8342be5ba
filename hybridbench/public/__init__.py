"""public: a step of ours beside the same step of a public library, on the same card in the same process.

A library's model gets the sizes of ours and our weights. Its logits of a short prompt must be ours before anything is
timed. Then both steps are timed in short blocks, taking turns. ``python -m hybridbench.public`` runs it.
"""

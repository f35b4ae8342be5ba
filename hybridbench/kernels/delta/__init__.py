"""delta: the gated delta rule and Kimi delta attention, over a sequence and in one step, and the norm after them."""

"""rwkv7: RWKV-7's delta rule with a decay and a rate of every channel, over a sequence and in a step, and its ends."""

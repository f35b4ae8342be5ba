"""linear: lightning attention, over a sequence and in one step."""

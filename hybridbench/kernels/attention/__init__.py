"""attention: attention over a sequence and one decode step of it, by PyTorch, by flash-attn and by this package."""

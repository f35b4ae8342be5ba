"""tasks: synthetic tasks that ask for recall or for state, learned from scratch and judged beyond their sizes."""

"""loss: the language-model head and its cross entropy."""

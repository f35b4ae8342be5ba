"""imports: a model from the config.json of another library: its fields checked, one function per model type."""

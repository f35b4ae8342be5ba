"""imports: models read from another library's config.json, with one function per model type."""

"""corpus: text as packed token shards with a manifest that says where it came from."""

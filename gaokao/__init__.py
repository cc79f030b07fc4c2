"""The nouns that the scripts share: configuration, records, prompts, models, runs."""

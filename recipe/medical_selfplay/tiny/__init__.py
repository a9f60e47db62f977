"""The embedded tiny model: its tokenizer, its supervised training, its figures."""

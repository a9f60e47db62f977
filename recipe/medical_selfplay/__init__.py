"""Medical self-play inside stock verl: see plugin.py for what is registered where."""

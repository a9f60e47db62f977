"""verl on the CPU: platform, engines and rollout. ``plugin.py`` registers them."""

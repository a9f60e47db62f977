"""The medical self-play game: its cases, turns, prompts, answers, judge and rewards.

Nothing here knows of a trainer: the package imports neither verl, Ray, Hydra nor torch.
"""

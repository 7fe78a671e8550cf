"""Figures of Ringpost beside its targets, the limits of what it stands on, and its peers: all measured in one run.

`python -m bench [NAMES…] [--quick] [--reps 3] [--json FILE] [--draw FOLDER]`. Absolute figures move with the machine;
ratios of one run hold. CPU per message is stable to some 5–10 %, rates to 15–30 %.
"""

"""How well the detectors find drift, and what that costs in false alarms: every test, its peers and an oracle.

    python -m benchmarks.detection [--quick | --full] [--scale 0.05] [--only A1,B3] [--jobs 2] [--out FILE]

What is measured is the product's own path under its default configuration, with nothing set but the budget: `fit` →
codes → `Monitor`. A detection is an alert in state `firing`. A false alarm is one while the stream is as the reference.
"""

"""Time and memory of the contrastive losses, beside every peer installed: python -m minclip_kernels.bench --help

peers.py says who takes part, gate.py whether it computes the right gradients, worker.py makes one run one turn,
measure.py lets them take turns, records.py keeps what was measured, report.py and plots.py show it; floors.py predicts
from data sheets, first_hour.py and tune.py are for a new GPU.
"""

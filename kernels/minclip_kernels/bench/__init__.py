"""Time and memory of the contrastive losses beside every installed peer.

`peers.py` lists the contenders, `gate.py` checks their gradients, `worker.py` runs one of them,
`measure.py` lets them take turns at every size, `records.py` keeps the rows, `report.py` prints
them. For a new GPU, `first_hour.py` compares each kernel with its prediction (`floors.py`) and
tries other tiles (`tune.py`).
"""

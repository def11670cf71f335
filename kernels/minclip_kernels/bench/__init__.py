"""Time and memory of the contrastive losses beside every installed peer.

`peers.py` lists the contenders, `gate.py` checks their gradients, `worker.py` runs one of them,
`measure.py` lets them take turns at every size, `records.py` keeps the rows, `report.py` shows
them. `first_hour.py` and `tune.py` are for a new GPU.
"""

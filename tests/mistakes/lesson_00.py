"""Wrong answers to the exercises of lesson 00, Two towers in a minute."""

import torch
import torch.nn.functional as F

MISTAKES = {
    "nearest_label": [
        lambda images, labels: (images @ labels.T).argmax(dim=1),  # long features win
        lambda images, labels: (F.normalize(images, dim=1) @ F.normalize(labels, dim=1).T).argmax(dim=0),
        lambda images, labels: (F.normalize(images, dim=0) @ F.normalize(labels, dim=0).T).argmax(dim=1),
        lambda images, labels: torch.cdist(images, labels).argmin(dim=1),
        lambda images, labels: (images @ F.normalize(labels, dim=0).T).argmax(dim=1),
        lambda images, labels: (F.normalize(images, dim=1) @ F.normalize(labels, dim=1).T).max(dim=1).values,
        lambda images, labels: (F.normalize(images, dim=1) @ F.normalize(labels, dim=1).T).argmin(dim=1),
        lambda images, labels: (F.normalize(images, dim=1) @ F.normalize(labels, dim=1)).argmax(dim=1),  # no .T
    ],
}

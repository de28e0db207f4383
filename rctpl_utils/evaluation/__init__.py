"""What methods reach on films: classification, grounding, retrieval, ablations (paper 4.2, 4.3).

Here live metrics with their intervals, the loops that score every method by the same code, heat
maps, and explanations with their calibration. No method is treated unlike another.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibration": ["Calibration", "calibrate"],
        "grounding": ["ground"],
        "retrieval": ["retrieve"],
        "table1": ["answerable", "classify", "quick_auc"],
    },
)

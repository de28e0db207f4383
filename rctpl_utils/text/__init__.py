"""Reports, triplets and knowledge (paper 3.1): from free text to sentences about findings.

Here live the reading of reports, the extraction of (concept, location, positive) triplets, the
labels made from them (Eq. 1) and the knowledge that describes a triplet. No image is read here and
nothing is learned.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "knowledge": ["Knowledge", "describe", "describe_triplets"],
        "reports": ["Report", "run_reports", "with_enough_concepts"],
        "triplets": ["Triplet", "report_labels", "triplets_frame"],
    },
)

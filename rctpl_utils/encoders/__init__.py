"""Frozen vision-language models behind one protocol, and what they say of data (paper 3.2).

Here live MedCLIP's and BioViL's checkpoints, the stand-in and its pre-training, and the cache of
features. An encoder knows no data set by name, no prompt and no metric.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": ["Encoder", "ImageFeatures"],
        "features": ["ImageFeatureFile", "image_features"],
        "loading": ["load_encoders"],
    },
)

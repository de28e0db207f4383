"""Prompt learning from text, and prompts on images (paper 3.2 to 3.4, Eq. 2 to 10).

Here live contexts, the text corpus, training, RC-TPL and RC-TPL+, what a person writes, and the
zero-shot model. Training reads no image, no metric is computed here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "encode": ["load_corpora"],
        "model": ["RCTPL"],
        "prompts": ["Prompts"],
        "training": ["TextCorpus", "learn_prompts"],
        "variants": ["learn_rctpl", "learn_rctpl_plus", "load_prompts", "table1_methods"],
        "zero_shot": ["Method"],
    },
)

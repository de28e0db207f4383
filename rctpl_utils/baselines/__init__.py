"""The paper's eight baselines, the prompt learners and a supervised reference (paper 4.1.5).

Here live their models, their training, their released checkpoints' formats, and the adapters
that put them into the tables beside RC-TPL.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "miniatures": ["train_miniatures"],
        "prompt_learners": ["learn_prompt_learners"],
        "registry": ["load_competitors", "load_prompt_learners"],
        "supervised": ["load_references"],
    },
)
